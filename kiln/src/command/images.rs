//! `kiln images`.

use std::time::SystemTime;

use clap::Args;
use kiln_builder::ImageSummary;
use kiln_oci::Reference;
use serde_json::json;

use crate::message::Failure;
use crate::units::{bytes, created_ago};
use crate::{state, table};

/// The arguments of `kiln images`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// List only the images of this name, with or without tag
    name: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Print in this form
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Form,
}

/// In which form images are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Columns
    Table,
    /// One JSON object per line
    Json,
}

/// Runs `kiln images`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut images = state::open()?.images()?;
    images.retain(|image| arguments.name.as_deref().is_none_or(|wanted| is_named(image, wanted)));
    super::print(&draw(arguments, &images, SystemTime::now()))
}

fn draw(arguments: &Arguments, images: &[ImageSummary], now: SystemTime) -> String {
    if arguments.quiet {
        return images.iter().map(|image| format!("{}\n", id(image, arguments.no_trunc))).collect();
    }
    if arguments.format == Form::Json {
        return images.iter().map(json_line).collect();
    }
    let mut heading = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if arguments.digests {
        heading.insert(2, "DIGEST");
    }
    let mut rows = vec![heading.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for image in images {
        let (repository, tag) = split(&image.name);
        let mut row = vec![
            repository,
            tag,
            id(image, arguments.no_trunc),
            created_ago(image.created.as_deref(), now),
            bytes(image.size),
        ];
        if arguments.digests {
            row.insert(2, image.digest.to_string());
        }
        rows.push(row);
    }
    table::draw(&rows)
}

fn json_line(image: &ImageSummary) -> String {
    let (repository, tag) = split(&image.name);
    let line = json!({
        "Repository": repository,
        "Tag": tag,
        "Digest": image.digest.to_string(),
        "ID": image.id.as_ref().map(ToString::to_string),
        "CreatedAt": image.created,
        "Size": image.size,
        "Platform": platforms(image),
    });
    format!("{line}\n")
}

/// `linux/amd64`, or several with commas; nothing for an image that cannot be read.
fn platforms(image: &ImageSummary) -> Option<String> {
    let texts: Vec<_> = image.platforms.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

fn id(image: &ImageSummary, whole: bool) -> String {
    let text = image.id.as_ref().unwrap_or(&image.digest).to_string();
    if whole {
        return text;
    }
    text.strip_prefix("sha256:").and_then(|hex| hex.get(..12)).unwrap_or(&text).to_owned()
}

/// Splits a stored name into repository and tag, as people write them.
fn split(name: &str) -> (String, String) {
    const NONE: &str = "<none>";
    match name.parse::<Reference>() {
        Ok(reference) => {
            let tag = reference.tag.clone().unwrap_or_else(|| NONE.to_owned());
            (Reference { tag: None, digest: None, ..reference }.familiar(), tag)
        }
        Err(_) if name.is_empty() => (NONE.to_owned(), NONE.to_owned()),
        Err(_) => (name.to_owned(), NONE.to_owned()),
    }
}

fn is_named(image: &ImageSummary, wanted: &str) -> bool {
    let (Ok(name), Ok(wanted)) = (image.name.parse::<Reference>(), wanted.parse::<Reference>()) else {
        return image.name == wanted;
    };
    name.name() == wanted.name() && wanted.tag.as_ref().is_none_or(|tag| name.tag.as_ref() == Some(tag))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use insta::assert_snapshot;
    use kiln_oci::{Digest, Platform};

    use super::*;

    fn image(name: &str) -> ImageSummary {
        ImageSummary {
            name: name.to_owned(),
            digest: Digest::of("manifest"),
            id: Some(Digest::of("config")),
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            size: 7_344_128,
            platforms: vec![Platform::new("linux", "amd64")],
        }
    }

    fn arguments() -> Arguments {
        Arguments { name: None, quiet: false, digests: false, no_trunc: false, format: Form::Table }
    }

    #[test]
    fn images_are_listed_as_people_name_them() {
        let images = [image("docker.io/library/app:dev"), image("127.0.0.1:5000/team/app:1"), image("")];
        assert_snapshot!(draw(&arguments(), &images, UNIX_EPOCH + Duration::from_secs(125)), @r"
        REPOSITORY                TAG      IMAGE ID       CREATED         SIZE
        app                       dev      b79606fb3afe   2 minutes ago   7.34MB
        127.0.0.1:5000/team/app   1        b79606fb3afe   2 minutes ago   7.34MB
        <none>                    <none>   b79606fb3afe   2 minutes ago   7.34MB
        ");
        let quiet = Arguments { quiet: true, ..arguments() };
        assert_eq!(draw(&quiet, &images[..1], UNIX_EPOCH), "b79606fb3afe\n");
        let json = Arguments { format: Form::Json, ..arguments() };
        let line: serde_json::Value = serde_json::from_str(&draw(&json, &images[..1], UNIX_EPOCH)).unwrap();
        assert_eq!((&line["Repository"], &line["Tag"]), (&json!("app"), &json!("dev")));
    }

    #[test]
    fn a_name_finds_all_its_tags() {
        let stored = image("docker.io/library/app:dev");
        for wanted in ["app", "app:dev", "library/app", "docker.io/library/app"] {
            assert!(is_named(&stored, wanted), "{wanted}");
        }
        for wanted in ["ap", "app:1", "other/app", "APP"] {
            assert!(!is_named(&stored, wanted), "{wanted}");
        }
    }
}
