//! `kiln history`.

use std::time::SystemTime;

use clap::Args;
use kiln_builder::BuildError;
use kiln_oci::{Descriptor, History, Platform};

use crate::input::value;
use crate::message::Failure;
use crate::progress::text::one_line;
use crate::units::{bytes, created_ago};
use crate::{state, table};

/// The longest instruction that is shown whole.
const LONGEST: usize = 60;

/// The arguments of `kiln history`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image: a name, or an id or the beginning of one
    image: String,
    /// Do not shorten instructions
    #[arg(long)]
    no_trunc: bool,
    /// Of an image for several platforms, show this one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

/// Runs `kiln history`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let platforms: Vec<String> = arguments.platform.iter().cloned().collect();
    let platform = value::platforms(&platforms)?.into_iter().next().unwrap_or_else(Platform::host);
    let details = state::open()?.inspect(&arguments.image)?;
    let image = details.image(&platform).ok_or_else(|| {
        let there: Vec<_> = details.images.iter().map(|image| image.config.platform.to_string()).collect();
        BuildError::input(format!("{} has no image for {platform}", arguments.image))
            .hint(format!("choose one with `--platform`: {}", there.join(", ")))
    })?;
    super::print(&draw(&image.config.history, &image.manifest.layers, arguments.no_trunc, SystemTime::now()))
}

/// Draws the history, the latest instruction first. Sizes are those of the compressed layers.
fn draw(history: &[History], layers: &[Descriptor], whole: bool, now: SystemTime) -> String {
    let mut layers = layers.iter();
    let mut rows: Vec<Vec<String>> = history
        .iter()
        .map(|entry| {
            let size = if entry.empty_layer { Some(0) } else { layers.next().map(|layer| layer.size) };
            vec![
                created_ago(entry.created.as_deref(), now),
                shortened(&one_line(&entry.created_by), whole),
                size.map_or_else(|| "N/A".to_owned(), bytes),
                one_line(&entry.comment),
            ]
        })
        .collect();
    rows.push(["CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec());
    rows.reverse();
    table::draw(&rows)
}

fn shortened(text: &str, whole: bool) -> String {
    if whole || text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use insta::assert_snapshot;
    use kiln_oci::media_type;

    use super::*;

    #[test]
    fn layers_go_with_the_instructions_that_made_them() {
        let entry = |created_by: &str, empty_layer| History {
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            created_by: created_by.to_owned(),
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer,
            ..History::default()
        };
        let history = [
            entry("COPY a /a # buildkit", false),
            entry("ENV A=b", true),
            entry(&format!("RUN /bin/sh -c {}", "x".repeat(80)), false),
            entry("RUN /bin/sh -c more", false),
        ];
        let layers =
            [1_000, 2_000].map(|size| Descriptor::new(media_type::LAYER_GZIP, kiln_oci::Digest::of("x"), size));
        assert_snapshot!(draw(&history, &layers, false, UNIX_EPOCH), @r"
        CREATED                  CREATED BY                                                     SIZE   COMMENT
        less than a second ago   RUN /bin/sh -c more                                            N/A    buildkit.dockerfile.v0
        less than a second ago   RUN /bin/sh -c xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…   2kB    buildkit.dockerfile.v0
        less than a second ago   ENV A=b                                                        0B     buildkit.dockerfile.v0
        less than a second ago   COPY a /a # buildkit                                           1kB    buildkit.dockerfile.v0
        ");
    }
}
