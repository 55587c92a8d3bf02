//! `--secret`: where secrets come from.
//!
//! ```text
//! --secret id=token,src=token.txt     a file
//! --secret id=token,env=TOKEN         a variable
//! --secret id=TOKEN                   the variable TOKEN, else the file TOKEN
//! ```
//!
//! A secret is read when a step asks for it, and not kept.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kiln_builder::BuildError;
use kiln_builder::seam::{Agent, Secrets};
use kiln_frontend::dockerfile::csv;

use super::ssh::NamedAgents;

/// The largest secret, as with BuildKit.
const LARGEST: u64 = 500 << 10;

/// The secrets that the command line names.
#[derive(Debug, Default)]
pub struct NamedSecrets(BTreeMap<String, Origin>);

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    Variable(String),
}

impl NamedSecrets {
    /// Reads the values of all `--secret` flags. Relative paths are taken from `current`.
    ///
    /// # Errors
    /// When one is malformed, or names a file that does not exist or is too large.
    pub fn parse(texts: &[String], current: &Path) -> Result<Self, BuildError> {
        let mut secrets = BTreeMap::new();
        for text in texts {
            let (id, origin) = parse(text).map_err(|error| error.context("invalid value for `--secret`"))?;
            if let Origin::File(path) = &origin {
                check_file(&id, &current.join(path))?;
            }
            let origin = match origin {
                Origin::File(path) => Origin::File(current.join(path)),
                variable => variable,
            };
            secrets.insert(id, origin);
        }
        Ok(Self(secrets))
    }
}

/// Everything secret that the command line lends to a build.
#[derive(Debug, Default)]
pub struct Lent {
    /// `--secret`.
    pub secrets: NamedSecrets,
    /// `--ssh`.
    pub agents: NamedAgents,
}

impl Secrets for Lent {
    fn secret(&self, id: &str) -> io::Result<Option<Vec<u8>>> {
        self.secrets.get(id)
    }

    fn agent(&self, id: &str) -> Option<Agent> {
        self.agents.get(id).cloned()
    }
}

impl NamedSecrets {
    /// Reads a secret; `None` if there is none of that name.
    fn get(&self, id: &str) -> io::Result<Option<Vec<u8>>> {
        match self.0.get(id) {
            None => Ok(None),
            Some(Origin::Variable(name)) => Ok(std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec)),
            Some(Origin::File(path)) => {
                let mut bytes = Vec::new();
                std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 > LARGEST {
                    return Err(io::Error::other(format!("secret `{id}` is larger than 500 KiB")));
                }
                Ok(Some(bytes))
            }
        }
    }
}

fn parse(text: &str) -> Result<(String, Origin), BuildError> {
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for field in csv::fields(text).map_err(|error| BuildError::input(error.to_string()))? {
        // A field is not repeated in a message unless it is a key: someone may have written the secret itself.
        let Some((key, value)) = field.split_once('=') else {
            return Err(BuildError::input("a field is not of the form `key=value`")
                .hint("for example `id=token,src=token.txt`"));
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => {
                return Err(BuildError::input(format!("unsupported secret type `{value}`")).hint("use `file` or `env`"));
            }
            "src" | "source" => file = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            other => {
                return Err(
                    BuildError::input(format!("unexpected key `{other}`")).hint("known keys: id, type, src, env")
                );
            }
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| BuildError::input("`id` is missing"))?;
    let origin = match (kind.as_deref(), variable, file) {
        (_, Some(_), Some(_)) => return Err(BuildError::input(format!("secret `{id}` has both `src` and `env`"))),
        (_, Some(variable), None) => Origin::Variable(variable),
        (Some("env"), None, Some(variable)) => Origin::Variable(variable),
        (Some("env"), None, None) => Origin::Variable(id.clone()),
        (_, None, Some(file)) => Origin::File(file.into()),
        (None, None, None) if std::env::var_os(&id).is_some() => Origin::Variable(id.clone()),
        (_, None, None) => Origin::File(id.clone().into()),
    };
    Ok((id, origin))
}

fn check_file(id: &str, path: &Path) -> Result<(), BuildError> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| BuildError::input(format!("cannot read secret `{id}` from `{}`: {error}", path.display())))?;
    if metadata.is_dir() {
        return Err(BuildError::input(format!("cannot read secret `{id}`: `{}` is a directory", path.display())));
    }
    if metadata.len() > LARGEST {
        return Err(BuildError::input(format!("secret `{id}` in `{}` is larger than 500 KiB", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_variables() {
        let cases = [
            ("id=a,src=f", Origin::File("f".into())),
            ("id=a,source=f,type=file", Origin::File("f".into())),
            ("id=a,env=V", Origin::Variable("V".into())),
            ("id=a,type=env,src=V", Origin::Variable("V".into())),
            ("type=env,id=V", Origin::Variable("V".into())),
            ("id=PATH", Origin::Variable("PATH".into())),
            ("id=no.such.variable", Origin::File("no.such.variable".into())),
        ];
        for (text, origin) in cases {
            assert_eq!(parse(text).unwrap().1, origin, "{text:?}");
        }
        for wrong in ["", "src=f", "id=", "id=a,type=x", "id=a,what=b", "id=a,src=f,env=V", "id=a,\"src=f"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_on_the_command_line_is_not_repeated() {
        let error = parse("id=token,hunter2").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn the_bytes_arrive_and_too_many_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, b"\xffsecret\n").unwrap();
        let flag = ["id=t,src=token".to_owned(), "id=p,env=PATH".to_owned()];
        let secrets = NamedSecrets::parse(&flag, directory.path()).unwrap();
        assert_eq!(secrets.get("t").unwrap().unwrap(), b"\xffsecret\n");
        assert!(secrets.get("p").unwrap().is_some());
        assert_eq!(secrets.get("other").unwrap(), None);
        std::fs::write(&path, vec![0; LARGEST as usize + 1]).unwrap();
        assert!(secrets.get("t").is_err());
        assert!(NamedSecrets::parse(&flag, directory.path()).is_err());
        assert!(NamedSecrets::parse(&flag, Path::new("/nowhere")).is_err());
    }
}
