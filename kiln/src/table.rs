//! Tables of text.

use unicode_width::UnicodeWidthStr as _;

/// Draws rows, the first of which is the heading, in columns that are as wide as they need to be.
pub fn draw(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width() + 3));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    #[test]
    fn columns_line_up() {
        let rows = [["NAME", "SIZE"], ["a", "1kB"], ["名前", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_snapshot!(super::draw(&rows), @r"
        NAME   SIZE
        a      1kB
        名前
        ");
    }
}
