//! `kiln cache`: the directories of `RUN --mount=type=cache`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kiln_builder::{BuildError, CacheDirectory};
use serde_json::json;

use crate::message::Failure;
use crate::progress::text::one_line;
use crate::units::{ago, bytes, exact_bytes};
use crate::{state, table};

/// The arguments of `kiln cache`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the cache mounts
    Ls {
        /// Print in this form
        #[arg(long, value_name = "FORM", default_value = "table")]
        format: Form,
    },
    /// Show where a cache mount is and how large
    Show {
        /// The id
        #[arg(value_name = "ID")]
        id: String,
        /// Print in this form
        #[arg(long, value_name = "FORM", default_value = "table")]
        format: Form,
    },
    /// Remove cache mounts
    Rm {
        /// The ids
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

/// In which form cache mounts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Columns
    Table,
    /// One JSON object per line
    Json,
}

/// Runs `kiln cache`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = state::open()?;
    let now = SystemTime::now();
    match &arguments.what {
        What::Ls { format: Form::Table } => super::print(&list(&engine.cache_directories()?, now)),
        What::Ls { format: Form::Json } => super::print(&json_lines(&engine.cache_directories()?)),
        What::Show { id, format } => {
            let mut found = engine.cache_directories()?;
            found.retain(|directory| directory.id == *id);
            if found.is_empty() {
                return Err(BuildError::input(format!("there is no cache mount `{id}`"))
                    .hint("`kiln cache ls` lists those that there are")
                    .into());
            }
            super::print(&if *format == Form::Json { json_lines(&found) } else { details(&found, now) })
        }
        What::Rm { ids } => Ok(engine.remove_caches(ids)?),
    }
}

fn list(directories: &[CacheDirectory], now: SystemTime) -> String {
    let mut rows = vec![["ID", "SIZE", "LAST USED"].map(str::to_owned).to_vec()];
    rows.extend(directories.iter().map(|it| vec![one_line(&it.id), bytes(it.size), last_used(it, now)]));
    table::draw(&rows)
}

fn details(directories: &[CacheDirectory], now: SystemTime) -> String {
    let mut text = String::new();
    for it in directories {
        let size = format!("{} ({})", bytes(it.size), exact_bytes(it.size));
        for (name, value) in [
            ("id", one_line(&it.id)),
            ("directory", it.path.display().to_string()),
            ("size", size),
            ("last used", last_used(it, now)),
        ] {
            text.push_str(&format!("{:<11}{value}\n", format!("{name}:")));
        }
    }
    text
}

fn last_used(directory: &CacheDirectory, now: SystemTime) -> String {
    match directory.in_use {
        true => "in use".to_owned(),
        false => ago(now.duration_since(directory.last_used).unwrap_or_default()),
    }
}

fn json_lines(directories: &[CacheDirectory]) -> String {
    let line = |it: &CacheDirectory| {
        let last_used = it.last_used.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        format!(
            "{}\n",
            json!({"ID": it.id, "Size": it.size, "LastUsed": last_used, "InUse": it.in_use, "Path": it.path})
        )
    };
    directories.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn cache_mounts_are_listed_with_size_and_use() {
        let directory = |id: &str, in_use| CacheDirectory {
            id: id.to_owned(),
            path: "/store/data".into(),
            size: 12_000_000,
            in_use,
            last_used: UNIX_EPOCH,
        };
        let directories = [directory("/root/.cache", false), directory("apt\n", true)];
        assert_snapshot!(list(&directories, UNIX_EPOCH + Duration::from_secs(125)), @r"
        ID             SIZE   LAST USED
        /root/.cache   12MB   2 minutes ago
        apt            12MB   in use
        ");
        let lines = json_lines(&directories[..1]);
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(
            (&line["ID"], &line["Size"], &line["InUse"]),
            (&json!("/root/.cache"), &json!(12_000_000), &json!(false))
        );
        assert!(details(&directories, UNIX_EPOCH).contains("directory: /store/data\n"));
    }
}
