//! Where results go: files that appear complete or not at all, directories, and standard output.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, PermissionsExt as _};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use kiln_builder::Destination;
use kiln_builder::seam::{ResultStream, Results};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// Archives are written in pieces of this size.
const BUFFER: usize = 256 << 10;

/// Writes results to the file system and to standard output.
#[derive(Debug, Default)]
pub struct LocalResults {
    /// What has been begun and cannot be taken back: standard output, pipes, devices.
    begun: Mutex<Vec<Destination>>,
}

impl LocalResults {
    /// Makes a stream of something that is not replaced when it is whole, once: a build that tries again would put a second
    /// result behind the beginning of the first.
    fn direct(&self, destination: &Destination, output: Box<dyn Write + Send>) -> io::Result<Box<dyn ResultStream>> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.contains(destination) {
            return Err(io::Error::other(
                "something in the store was damaged, which was found after the first bytes had gone out; build again",
            ));
        }
        begun.push(destination.clone());
        Ok(Box::new(Direct(BufWriter::with_capacity(BUFFER, output))))
    }
}

impl Results for LocalResults {
    fn stream(&self, destination: &Destination) -> io::Result<Box<dyn ResultStream>> {
        match destination {
            Destination::Stdout => self.direct(destination, Box::new(io::stdout())),
            Destination::File(path) => match std::fs::metadata(path) {
                Ok(found) if found.is_dir() => Err(io::Error::other(format!("`{}` is a directory", path.display()))),
                // A device or a pipe is written to, not replaced.
                Ok(found) if found.file_type().is_fifo() || found.file_type().is_char_device() => {
                    let file = File::options().write(true).open(path)?;
                    self.direct(destination, Box::new(file))
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

/// Copies `size` bytes between the positions of two files. The kernel copies, and for large files on
/// several processors at once: one alone is bound by its memory, not by the disk.
fn copy_in_parts(mut input: &File, output: &mut File, size: u64) -> io::Result<()> {
    const PART: u64 = 16 << 20;
    let (from, to) = (input.stream_position()?, output.stream_position()?);
    output.set_len(to + size)?;
    let (parts, next) = (size.div_ceil(PART), AtomicU64::new(0));
    let copy = |output: &File| {
        loop {
            let begin = next.fetch_add(1, Ordering::Relaxed) * PART;
            if begin >= size {
                return Ok(());
            }
            copy_range(input, output, from + begin, to + begin, PART.min(size - begin))?;
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(parts.max(1) as usize);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| copy(output))).collect();
        let mine = copy(output);
        let joined = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.fold(mine, io::Result::and)
    })?;
    input.seek(SeekFrom::Start(from + size))?;
    output.seek(SeekFrom::Start(to + size))?;
    Ok(())
}

/// Copies `size` bytes from one place to the other; through memory where the file systems cannot
/// do it between them (copy_file_range(2)).
fn copy_range(input: &File, output: &File, mut from: u64, mut to: u64, size: u64) -> io::Result<()> {
    let end = from + size;
    let mut by_kernel = true;
    let mut buffer = Vec::new();
    while from < end {
        let missing = (end - from) as usize;
        let copied = if by_kernel {
            match rustix::fs::copy_file_range(input, Some(&mut from), output, Some(&mut to), missing) {
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF | Errno::PERM) => {
                    by_kernel = false;
                    continue;
                }
                Err(Errno::INTR) => continue,
                other => other?,
            }
        } else {
            buffer.resize(1 << 20, 0);
            let limit = buffer.len().min(missing);
            let count = input.read_at(&mut buffer[..limit], from)?;
            output.write_all_at(&buffer[..count], to)?;
            (from, to) = (from + count as u64, to + count as u64);
            count
        };
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
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
        let output = self.file.get_mut().as_file_mut();
        let size = size.min(file.metadata()?.len().saturating_sub((&mut &*file).stream_position()?));
        copy_in_parts(file, output, size)?;
        Ok(size)
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

/// Looks whether a file could be written, and leaves what is there.
///
/// # Errors
/// When its directory does not exist or cannot be written.
pub fn check_file(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        // To open a pipe would tell its reader that all has been said.
        Ok(found) if found.file_type().is_fifo() || found.file_type().is_char_device() => Ok(()),
        _ => LocalResults::default().stream(&Destination::File(path.to_owned())).map(drop),
    }
}

/// Writes a small file so that it appears complete or not at all.
///
/// # Errors
/// When the directory does not exist or cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut stream = LocalResults::default().stream(&Destination::File(path.to_owned()))?;
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
        let mut stream = LocalResults::default().stream(&destination).unwrap();
        stream.write_all(b"abc").unwrap();
        assert!(!path.exists());
        stream.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        let mut dropped = LocalResults::default().stream(&destination).unwrap();
        dropped.write_all(b"partial").unwrap();
        drop(dropped);
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(directory.path()), ["out.tar"]);
    }

    #[test]
    fn a_large_file_is_copied_in_parts_to_where_the_stream_is() {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..40_000_000_u32).map(|number| (number / 7) as u8).collect();
        let from = directory.path().join("from");
        std::fs::write(&from, &content).unwrap();
        let mut input = File::open(&from).unwrap();
        input.seek(SeekFrom::Start(3)).unwrap();
        let path = directory.path().join("out.tar");
        let mut stream = LocalResults::default().stream(&Destination::File(path.clone())).unwrap();
        stream.write_all(b"before").unwrap();
        assert_eq!(stream.copy_file(&input, 39_000_000).unwrap(), 39_000_000);
        // There are fewer bytes than asked for.
        assert_eq!(stream.copy_file(&input, 2_000_000).unwrap(), 999_997);
        stream.write_all(b"after").unwrap();
        stream.finish().unwrap();
        let expected = [b"before", &content[3..], b"after"].concat();
        assert!(std::fs::read(&path).unwrap() == expected);
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
        check_file(&link).unwrap();
        check_file(Path::new("/dev/null")).unwrap();
        assert!(check_file(directory.path()).is_err() && check_file(Path::new("/proc/new")).is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["link", "target"]);
    }

    #[test]
    fn directories_are_made_and_files_are_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(LocalResults::default().directory(&directory.path().join("a/b")).is_ok());
        std::fs::write(directory.path().join("f"), "").unwrap();
        assert!(LocalResults::default().directory(&directory.path().join("f")).is_err());
    }
}
