//! Packs one file into a layer and says how long it took and how much memory:
//! `cargo run --release -p kiln-cache --example pack -- STORE FILE gzip|zstd|tar|none`

use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln_cache::Store;
use kiln_cache::layer::{Compression, Content, NewEntry, NewKind, Pack, pack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, file, compression] = &arguments[..] else {
        return Err("usage: pack STORE FILE gzip|zstd|tar|none".into());
    };
    let compression = match &**compression {
        "gzip" => Some(Compression::Gzip),
        "zstd" => Some(Compression::Zstd),
        "tar" => Some(Compression::Uncompressed),
        "none" => None,
        other => return Err(format!("unknown compression {other}").into()),
    };
    let store = Store::open(Path::new(store))?;
    let path = PathBuf::from(file);
    let size = std::fs::metadata(&path)?.len();
    let content = Content::open(move || std::fs::File::open(path));
    let entry = NewEntry::new("file", NewKind::File { size, content }, 0o644);
    let start = Instant::now();
    let packed = pack(&store, [Ok(entry)].into_iter(), &Pack { compression, directory: false, like: None })?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{} of {} bytes", packed.diff_id, packed.size);
    if let Some(blob) = &packed.blob {
        println!("{} of {} bytes", blob.digest, blob.size);
    }
    println!("{seconds:.2} s, {:.0} MB/s", size as f64 / seconds / 1e6);
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    Ok(())
}
