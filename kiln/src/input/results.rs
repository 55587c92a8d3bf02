//! Where results go: files that appear complete or not at all, directories, and standard output.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kiln_builder::Destination;
use kiln_builder::seam::{ResultStream, Results};
use tempfile::NamedTempFile;

/// Archives are written in pieces of this size.
const BUFFER: usize = 256 << 10;

/// Writes results to the file system and to standard output.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalResults;

impl Results for LocalResults {
    fn stream(&self, destination: &Destination) -> io::Result<Box<dyn ResultStream>> {
        match destination {
            Destination::Stdout => Ok(Box::new(Direct(BufWriter::with_capacity(BUFFER, Box::new(io::stdout()))))),
            Destination::File(path) => match std::fs::metadata(path) {
                Ok(found) if found.is_dir() => Err(io::Error::other(format!("`{}` is a directory", path.display()))),
                // A device or a pipe is written to, not replaced.
                Ok(found) if found.file_type().is_fifo() || found.file_type().is_char_device() => {
                    let file = File::options().write(true).open(path)?;
                    Ok(Box::new(Direct(BufWriter::with_capacity(BUFFER, Box::new(file)))))
                }
                // A symlink to a file stays, and what it points to is replaced.
                Ok(_) => Ok(Box::new(Renamed::create(path.canonicalize()?)?)),
                Err(_) => Ok(Box::new(Renamed::create(path.clone())?)),
            },
        }
    }

    fn directory(&self, path: &Path) -> io::Result<File> {
        std::fs::create_dir_all(path)?;
        let directory = File::open(path)?;
        if !directory.metadata()?.is_dir() {
            return Err(io::Error::other(format!("`{}` is not a directory", path.display())));
        }
        Ok(directory)
    }
}

/// A file that is written beside its place and renamed when it is complete.
struct Renamed {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Renamed {
    fn create(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(BUFFER, beside(&path)?), path })
    }
}

/// Makes a temporary file in the directory of `path`, with the mode that a new file gets.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".kiln-").permissions(Permissions::from_mode(0o666)).tempfile_in(parent)
}

impl Write for Renamed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ResultStream for Renamed {
    fn copy_file(&mut self, file: &File, size: u64) -> io::Result<u64> {
        self.file.flush()?;
        // Between two files the kernel copies.
        io::copy(&mut file.take(size), self.file.get_mut().as_file_mut())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        // The user asked for this file: it is on the disk when we say so.
        file.as_file().sync_data()?;
        file.persist(&self.path)?;
        Ok(())
    }
}

struct Direct(BufWriter<Box<dyn Write + Send>>);

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ResultStream for Direct {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes a small file so that it appears complete or not at all.
///
/// # Errors
/// When the directory does not exist or cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut stream = LocalResults.stream(&Destination::File(path.to_owned()))?;
    stream.write_all(bytes)?;
    stream.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_finished_and_never_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tar");
        let destination = Destination::File(path.clone());
        let mut stream = LocalResults.stream(&destination).unwrap();
        stream.write_all(b"abc").unwrap();
        assert!(!path.exists());
        stream.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        let mut dropped = LocalResults.stream(&destination).unwrap();
        dropped.write_all(b"partial").unwrap();
        drop(dropped);
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(directory.path()), ["out.tar"]);
    }

    #[test]
    fn symlinks_stay_and_devices_are_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (directory.path().join("link"), directory.path().join("target"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        write_file(Path::new("/dev/null"), b"gone").unwrap();
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
        assert!(write_file(directory.path(), b"x").is_err());
    }

    #[test]
    fn directories_are_made_and_files_are_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(LocalResults.directory(&directory.path().join("a/b")).is_ok());
        std::fs::write(directory.path().join("f"), "").unwrap();
        assert!(LocalResults.directory(&directory.path().join("f")).is_err());
    }
}
