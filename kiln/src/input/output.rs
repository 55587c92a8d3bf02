//! `--output`: what is to be made of the result.
//!
//! ```text
//! -o DIR                      type=local,dest=DIR
//! -o -                        type=tar,dest=-
//! -o type=oci,dest=app.tar    also docker, tar, local, image, registry
//! ```

use std::path::{Path, PathBuf};

use kiln_builder::{BuildError, Compression, Destination, LayerOptions, Output};
use kiln_frontend::dockerfile::{csv, suggest};
use kiln_oci::Reference;

use super::results;

/// One `--output`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What to make.
    pub output: Output,
    /// Names given with `name=`.
    pub names: Vec<Reference>,
}

/// Every key that some kind of output takes.
const KEYS: [&str; 10] = [
    "type",
    "dest",
    "tar",
    "compression",
    "force-compression",
    "rewrite-timestamp",
    "name",
    "push",
    "oci-mediatypes",
    "platform-split",
];

/// Keys that other builders know and kiln does not yet.
const LATER: [&str; 11] = [
    "compression-level",
    "source-date-epoch",
    "push-by-digest",
    "registry.insecure",
    "store",
    "unpack",
    "dangling-name-prefix",
    "name-canonical",
    "oci-artifact",
    "mode",
    "context",
];

const TYPES: &str = "types: image, registry, oci, docker, local, tar, cacheonly";

#[derive(Default)]
struct Fields {
    kind: Option<String>,
    destination: Option<String>,
    tar: Option<bool>,
    compression: Option<Compression>,
    force: Option<bool>,
    clamp: Option<bool>,
    names: Vec<Reference>,
    push: Option<bool>,
    split: Option<bool>,
}

/// Reads the value of one `--output`. Relative paths are taken from `current`.
///
/// # Errors
/// When the text is malformed, asks for something unknown, or its parts do not go together.
pub fn parse(text: &str, current: &Path) -> Result<Parsed, BuildError> {
    let wrong = |why: String| BuildError::input(format!("invalid value `{text}` for `--output`: {why}"));
    if text.is_empty() {
        return Err(wrong("it is empty".to_owned()).hint("give a directory, `-`, or `type=oci,dest=FILE`"));
    }
    let parts = csv::fields(text).map_err(|error| wrong(error.to_string()))?;
    if let [only] = parts.as_slice()
        && !only.starts_with("type=")
    {
        let output = match &**only {
            "-" => Output::Tar { destination: Destination::Stdout },
            directory => Output::Local { directory: current.join(directory), split: None },
        };
        return Ok(Parsed { output, names: Vec::new() });
    }
    let mut fields = Fields::default();
    for part in &parts {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            wrong(format!("`{part}` is not of the form `key=value`")).hint(format!("known keys: {}", KEYS.join(", ")))
        })?;
        let key = key.trim().to_ascii_lowercase();
        fields.take(&key, value).map_err(|error| error.context(format!("invalid value `{text}` for `--output`")))?;
    }
    fields.finish(current).map_err(|error| error.context(format!("invalid value `{text}` for `--output`")))
}

impl Fields {
    fn take(&mut self, key: &str, value: &str) -> Result<(), BuildError> {
        let truth = || {
            csv::boolean(value).ok_or_else(|| BuildError::input(format!("`{key}={value}` is neither true nor false")))
        };
        match key {
            "type" => self.kind = Some(value.to_owned()),
            "dest" => self.destination = Some(value.to_owned()),
            "tar" => self.tar = Some(truth()?),
            "push" => self.push = Some(truth()?),
            "platform-split" => self.split = Some(truth()?),
            "compression" => self.compression = Some(compression(value)?),
            "force-compression" => self.force = Some(truth()?),
            "rewrite-timestamp" => self.clamp = Some(truth()?),
            "name" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    self.names.push(super::value::tag(name)?);
                }
            }
            "oci-mediatypes" if truth()? => {}
            "oci-mediatypes" => {
                return Err(BuildError::input("`oci-mediatypes=false` is not supported: kiln writes OCI media types"));
            }
            key if key.starts_with("x-") => {}
            key if LATER.contains(&key) || key.starts_with("annotation") => {
                return Err(BuildError::input(format!("`{key}` is not supported yet")));
            }
            key => {
                let error = BuildError::input(format!("unknown key `{key}`"));
                return Err(match suggest::closest(key, KEYS) {
                    Some(guess) => error.hint(format!("did you mean `{guess}`?")),
                    None => error.hint(format!("known keys: {}", KEYS.join(", "))),
                });
            }
        }
        Ok(())
    }

    fn finish(self, current: &Path) -> Result<Parsed, BuildError> {
        let Some(kind) = self.kind.as_deref() else {
            return Err(BuildError::input("`type` is missing").hint(TYPES));
        };
        let belongs = |key: &str, given: bool, kinds: &[&str]| {
            let fits = !given || kinds.contains(&kind);
            fits.then_some(()).ok_or_else(|| {
                BuildError::input(format!("`{key}` does not go with `type={kind}`"))
                    .hint(format!("it belongs to: {}", kinds.join(", ")))
            })
        };
        belongs("tar", self.tar.is_some(), &["oci", "docker"])?;
        belongs("push", self.push.is_some(), &["image", "registry"])?;
        belongs("platform-split", self.split.is_some(), &["local"])?;
        let images = ["image", "registry", "oci", "docker"];
        belongs("compression", self.compression.is_some(), &images)?;
        belongs("force-compression", self.force.is_some(), &images)?;
        belongs("rewrite-timestamp", self.clamp.is_some(), &images)?;
        belongs("name", !self.names.is_empty(), &["image", "registry", "oci", "docker"])?;
        belongs("dest", self.destination.is_some(), &["oci", "docker", "local", "tar"])?;
        let usual = LayerOptions::default();
        let layers = LayerOptions {
            compression: self.compression.unwrap_or(usual.compression),
            force: self.force.unwrap_or(usual.force),
            clamp: self.clamp.unwrap_or(usual.clamp),
        };
        let stream = || match self.destination.as_deref() {
            None | Some("-" | "") => Destination::Stdout,
            Some(path) => Destination::File(current.join(path)),
        };
        let output = match kind {
            "image" => Output::Image { push: self.push.unwrap_or(false), layers },
            "registry" => Output::Image { push: self.push.unwrap_or(true), layers },
            "tar" => Output::Tar { destination: stream() },
            "local" => match self.destination.as_deref() {
                None | Some("") => return Err(BuildError::input("`type=local` needs `dest=DIRECTORY`")),
                Some("-") => {
                    return Err(BuildError::input("a directory cannot go to standard output").hint("use `type=tar`"));
                }
                Some(path) => Output::Local { directory: current.join(path), split: self.split },
            },
            "oci" => {
                let destination = stream();
                let tar = self.tar.unwrap_or(true);
                if !tar && destination == Destination::Stdout {
                    return Err(BuildError::input("`tar=false` needs `dest=DIRECTORY`"));
                }
                Output::Oci { destination, tar, layers }
            }
            "docker" => {
                if self.tar == Some(false) {
                    return Err(BuildError::input("`tar=false` does not go with `type=docker`")
                        .hint("use `type=oci,tar=false`"));
                }
                Output::Docker { destination: stream(), layers }
            }
            "cacheonly" => Output::CacheOnly,
            other => {
                return Err(BuildError::input(format!("unknown type `{other}`")).hint(TYPES));
            }
        };
        Ok(Parsed { output, names: self.names })
    }
}

fn compression(text: &str) -> Result<Compression, BuildError> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::Uncompressed),
        "estargz" => Err(BuildError::input("compression `estargz` is not supported")
            .hint("use `gzip`, which the same readers take, or `zstd`")),
        other => {
            Err(BuildError::input(format!("unknown compression `{other}`")).hint("known: gzip, zstd, uncompressed"))
        }
    }
}

/// Combines `--output`, `--push` and `--load` into what is to be made.
///
/// # Errors
/// When more than one result would go to standard output.
pub fn combine(mut outputs: Vec<Output>, push: bool, load: bool) -> Result<Vec<Output>, BuildError> {
    if push {
        let mut pushed = false;
        for output in &mut outputs {
            if let Output::Image { push, .. } = output {
                *push = true;
                pushed = true;
            }
        }
        if !pushed {
            outputs.push(Output::Image { push: true, layers: LayerOptions::default() });
        }
    }
    // The store is where `--load` would bring the image, and it is there anyway unless only other outputs are asked for.
    if load && !outputs.is_empty() && !outputs.iter().any(|output| matches!(output, Output::Image { .. })) {
        outputs.push(Output::Image { push: false, layers: LayerOptions::default() });
    }
    if outputs.iter().filter(|output| to_stdout(output)).count() > 1 {
        return Err(BuildError::input("only one `--output` can go to standard output"));
    }
    Ok(outputs)
}

/// Whether an output goes to standard output.
pub fn to_stdout(output: &Output) -> bool {
    match output {
        Output::Oci { destination, .. } | Output::Docker { destination, .. } | Output::Tar { destination } => {
            *destination == Destination::Stdout
        }
        Output::Image { .. } | Output::Local { .. } | Output::CacheOnly => false,
    }
}

/// Looks at the destinations before anything is built, so that a typing mistake does not cost a build.
///
/// # Errors
/// When a file is asked for where a directory is, or the other way round, or a directory does not exist.
pub fn check_destinations(outputs: &[Output], stdout_is_terminal: bool) -> Result<(), BuildError> {
    for output in outputs {
        match output {
            Output::Oci { destination: Destination::File(path), tar: false, .. }
            | Output::Local { directory: path, .. } => {
                if path.exists() && !path.is_dir() {
                    return Err(BuildError::input(format!("destination directory `{}` is a file", path.display())));
                }
            }
            Output::Oci { destination, .. } | Output::Docker { destination, .. } | Output::Tar { destination } => {
                check_destination(destination, stdout_is_terminal)?;
            }
            Output::Image { .. } | Output::CacheOnly => {}
        }
    }
    Ok(())
}

/// Looks whether a stream can go to its destination. What is there stays as it is.
///
/// # Errors
/// When it is a terminal or a directory, or no file can be made there.
pub fn check_destination(destination: &Destination, stdout_is_terminal: bool) -> Result<(), BuildError> {
    match destination {
        Destination::Stdout if stdout_is_terminal => {
            Err(BuildError::input("refusing to write an archive to a terminal")
                .hint("give a file with `dest=FILE`, or redirect standard output"))
        }
        Destination::Stdout => Ok(()),
        Destination::File(path) if path.is_dir() => {
            Err(BuildError::input(format!("destination file `{}` is a directory", path.display()))
                .hint("name a file in it"))
        }
        Destination::File(path) => {
            let parent = parent_of(path);
            if parent.is_dir() {
                return results::check_file(path).map_err(|error| {
                    BuildError::environment(format!("cannot write `{}`: {error}", path.display()))
                        .hint("name a place where files can be made")
                });
            }
            Err(BuildError::input(format!(
                "cannot write `{}`: the directory `{}` does not exist",
                path.display(),
                parent.display()
            ))
            .hint(format!("make it: `mkdir -p {}`", parent.display())))
        }
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(text: &str, output: Output) {
        assert_eq!(parse(text, Path::new("/here")).unwrap().output, output, "{text:?}");
    }

    #[track_caller]
    fn bad(text: &str, part: &str) {
        let error = parse(text, Path::new("/here")).unwrap_err();
        let shown = format!("{} | {}", error.message, error.hint.unwrap_or_default());
        assert!(shown.contains(part), "{text:?}: {shown}");
    }

    fn file(path: &str) -> Destination {
        Destination::File(PathBuf::from(path))
    }

    #[test]
    fn the_short_forms() {
        good("out", Output::Local { directory: "/here/out".into(), split: None });
        good("/abs", Output::Local { directory: "/abs".into(), split: None });
        good("-", Output::Tar { destination: Destination::Stdout });
        // A directory may have an equals sign in its name; buildx takes it so too.
        good("a=b", Output::Local { directory: "/here/a=b".into(), split: None });
    }

    #[test]
    fn the_long_forms() {
        let layers = LayerOptions::default();
        let zstd = LayerOptions { compression: Compression::Zstd, ..LayerOptions::default() };
        good("type=cacheonly", Output::CacheOnly);
        let clamped = LayerOptions { force: true, clamp: true, ..layers };
        let text = "type=docker,force-compression=true,rewrite-timestamp=1";
        good(text, Output::Docker { destination: Destination::Stdout, layers: clamped });
        good("type=oci,dest=a.tar", Output::Oci { destination: file("/here/a.tar"), tar: true, layers });
        good("type=oci", Output::Oci { destination: Destination::Stdout, tar: true, layers });
        good(
            "type=oci,tar=false,dest=d,compression=zstd",
            Output::Oci { destination: file("/here/d"), tar: false, layers: zstd },
        );
        good("type=docker", Output::Docker { destination: Destination::Stdout, layers });
        good("type=docker,\"dest=a,b\"", Output::Docker { destination: file("/here/a,b"), layers });
        good("type=registry", Output::Image { push: true, layers });
        good("type=image,push=1", Output::Image { push: true, layers });
        good("type=tar,dest=-", Output::Tar { destination: Destination::Stdout });
        good(
            "type=local,dest=x,platform-split=false",
            Output::Local { directory: "/here/x".into(), split: Some(false) },
        );
        bad("type=tar,platform-split=1", "it belongs to: local");
        good("type=local,dest=x,x-anything=1", Output::Local { directory: "/here/x".into(), split: None });
    }

    #[test]
    fn names_come_along() {
        let names = parse("type=image,\"name=app,127.0.0.1:5000/app:2\"", Path::new("/")).unwrap().names;
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/library/app:latest", "127.0.0.1:5000/app:2"]);
    }

    #[test]
    fn mistakes_are_named() {
        bad("", "empty");
        bad("type=oci,dest", "`dest` is not of the form");
        bad("dest=a,tar=true", "`type` is missing");
        bad("type=ocii", "unknown type `ocii`");
        bad("type=oci,des=a", "did you mean `dest`");
        bad("type=oci,tar=maybe", "neither true nor false");
        bad("type=oci,push=true", "does not go with");
        bad("type=local", "needs `dest=");
        bad("type=local,dest=-", "type=tar");
        bad("type=docker,tar=false,dest=d", "type=oci");
        bad("type=oci,tar=false", "tar=false");
        bad("type=image,compression=xz", "unknown compression");
        bad("type=image,push-by-digest=true", "not supported yet");
        bad("type=tar,rewrite-timestamp=true", "does not go with");
        bad("type=oci,compression=estargz", "`estargz` is not supported");
        bad("type=image,oci-mediatypes=false", "OCI media types");
        bad("type=image,name=UPPER", "lowercase");
        bad("\"type=oci", "quoted");
    }

    #[test]
    fn push_joins_an_image_output_or_adds_one() {
        let layers = LayerOptions { compression: Compression::Zstd, ..LayerOptions::default() };
        let one = combine(vec![Output::Image { push: false, layers }], true, false).unwrap();
        assert_eq!(one, [Output::Image { push: true, layers }]);
        let local = Output::Local { directory: "x".into(), split: None };
        assert_eq!(combine(vec![local.clone()], true, true).unwrap().len(), 2);
        assert_eq!(combine(vec![local], false, true).unwrap().len(), 2);
        assert!(combine(Vec::new(), false, true).unwrap().is_empty());
        let stdout = Output::Tar { destination: Destination::Stdout };
        assert!(combine(vec![stdout.clone(), stdout], false, false).is_err());
    }

    #[test]
    fn destinations_are_looked_at_before_the_build() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        let tar = |path| vec![Output::Tar { destination: Destination::File(path) }];
        assert!(check_destinations(&tar(path("new")), true).is_ok());
        assert!(check_destinations(&tar(path("file")), true).is_ok());
        assert!(check_destinations(&tar(directory.path().to_owned()), true).is_err());
        assert!(check_destinations(&tar(path("no/new")), true).is_err());
        assert!(check_destinations(&[Output::Local { directory: path("file"), split: None }], true).is_err());
        let stdout = [Output::Tar { destination: Destination::Stdout }];
        assert!(check_destinations(&stdout, true).is_err());
        assert!(check_destinations(&stdout, false).is_ok());
    }
}
