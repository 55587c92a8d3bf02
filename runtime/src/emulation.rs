//! Commands for other processors, run by qemu's user-mode emulators.
//!
//! The kernel starts an emulator by itself for programs that look like those of its processor, once it is told how they
//! look. Where the host has such a handler, and one that works in any root (flag F), there is nothing to do. Else the
//! sandbox gets a table of handlers of its own, in a user namespace: Linux 6.7 and later have one for each. Nothing is
//! changed on the host.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the host shows its handlers.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// A kind of processor, and how its programs begin: name in images, name of the emulator, 64 bits, big-endian, number.
struct Processor(&'static str, &'static str, bool, bool, u16);

const PROCESSORS: [Processor; 9] = [
    Processor("amd64", "x86_64", true, false, 62),
    Processor("386", "i386", false, false, 3),
    Processor("arm64", "aarch64", true, false, 183),
    Processor("arm", "arm", false, false, 40),
    Processor("riscv64", "riscv64", true, false, 243),
    Processor("ppc64le", "ppc64le", true, false, 21),
    Processor("s390x", "s390x", true, true, 22),
    Processor("mips64le", "mips64el", true, false, 8),
    Processor("loong64", "loongarch64", true, false, 258),
];

/// How a sandbox runs programs of another processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The name of the emulator: `qemu-aarch64`.
    pub name: String,
    /// The program that the sandbox registers for itself; none where the host's kernel has a handler already.
    pub program: Option<PathBuf>,
    /// How programs begin that it runs, and which bits of that count.
    pattern: (Vec<u8>, Vec<u8>),
}

impl Emulator {
    /// Finds an emulator for an architecture, as images name it; none where there is none, or none for that architecture.
    pub fn find(architecture: &str) -> Option<Self> {
        let processor = PROCESSORS.iter().find(|processor| processor.0 == architecture)?;
        let name = format!("qemu-{}", processor.1);
        let pattern = processor.pattern();
        let handler = fs::read_to_string(Path::new(HANDLERS).join(&name)).unwrap_or_default();
        if works_in_any_root(&handler) {
            return Some(Self { name, program: None, pattern });
        }
        let path = std::env::var_os("PATH")?;
        let candidates = [format!("{name}-static"), name.clone()];
        let mut programs = std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .flat_map(|directory| candidates.clone().map(|candidate| directory.join(candidate)));
        let program = programs.find(|program| is_static_program(program))?;
        Some(Self { name, program: Some(program), pattern })
    }

    /// Returns the architectures for which there is an emulator here, as images name them.
    pub fn architectures() -> Vec<&'static str> {
        PROCESSORS.iter().map(|processor| processor.0).filter(|name| Self::find(name).is_some()).collect()
    }

    /// Returns the line that registers `program`, the path of the emulator, with the kernel. F: it is opened now, and works
    /// in any root. C: set-id programs get their rights. P: it is told how the program was called.
    pub(crate) fn registration(&self, program: &str) -> String {
        let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        format!(":{}:M::{}:{}:{program}:FPC", self.name, escaped(&self.pattern.0), escaped(&self.pattern.1))
    }
}

impl Processor {
    /// Returns how programs of it begin, and which bits of that count: all but the system's name, and both kinds of
    /// program, at a fixed place and at any.
    fn pattern(&self) -> (Vec<u8>, Vec<u8>) {
        let Self(_, _, is_wide, is_big, number) = *self;
        let mut magic = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_wide), 1 + u8::from(is_big), 1];
        magic.resize(16, 0);
        let mut mask = vec![0xff; 20];
        mask[7] = 0;
        const PROGRAM: u16 = 2;
        let two = |value: u16| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
        magic.extend(two(PROGRAM).into_iter().chain(two(number)));
        mask[16 + usize::from(is_big)] = 0xfe;
        (magic, mask)
    }
}

/// Returns the architecture of a program from how it begins, as images name it.
pub fn architecture_of(program: &[u8]) -> Option<&'static str> {
    let fits = |processor: &&Processor| {
        let (magic, mask) = processor.pattern();
        program.len() >= magic.len()
            && magic.iter().zip(&mask).zip(program).all(|((magic, mask), byte)| magic & mask == byte & mask)
    };
    PROCESSORS.iter().find(fits).map(|processor| processor.0)
}

fn works_in_any_root(handler: &str) -> bool {
    let flags = handler.lines().find_map(|line| line.strip_prefix("flags: "));
    handler.starts_with("enabled\n") && flags.is_some_and(|flags| flags.contains('F'))
}

/// Whether a file is a program that needs no other: in the sandbox there is no loader for it.
fn is_static_program(path: &Path) -> bool {
    const INTERPRETER: u32 = 3;
    let read = || -> std::io::Result<bool> {
        let mut file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        let mut header = [0; 64];
        file.read_exact(&mut header)?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 || !header.starts_with(b"\x7fELF") {
            return Ok(false);
        }
        // A program of this machine, whose numbers are its own. Kiln runs on 64 bits only.
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| header[at + index]));
        let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (table, size, count) = (long(32), u64::from(short(54)), u64::from(short(56)));
        for index in 0..count {
            let mut kind = [0; 4];
            file.read_exact_at(&mut kind, table + index * size)?;
            if u32::from_ne_bytes(kind) == INTERPRETER {
                return Ok(false);
            }
        }
        Ok(true)
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_what_programs_look_like() {
        let processor = PROCESSORS.iter().find(|processor| processor.0 == "arm64").expect("it is known");
        let emulator = Emulator { name: "qemu-aarch64".into(), program: None, pattern: processor.pattern() };
        let wanted = r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q:FPC";
        assert_eq!(emulator.registration("/q"), wanted);
    }

    #[test]
    fn programs_are_told_apart() {
        let own = fs::read("/proc/self/exe").expect("our own program");
        let wanted = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        assert_eq!(architecture_of(&own), Some(wanted));
        let big = [&b"\x7fELF\x02\x02\x01"[..], &[0; 9], &[0, 3, 0, 22]].concat();
        assert_eq!(architecture_of(&big), Some("s390x"));
        assert_eq!(architecture_of(b"#!/bin/sh"), None);
        assert!(!is_static_program(Path::new("/proc/version")));
    }

    #[test]
    fn a_handler_counts_when_it_works_in_any_root() {
        let handler = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n";
        assert!(works_in_any_root(handler));
        assert!(
            !works_in_any_root(&handler.replace("POCF", "OC"))
                && !works_in_any_root(&handler.replace("enabled", "disabled"))
        );
        assert!(!works_in_any_root(""));
    }
}
