//! `kiln inspect`.

use clap::Args;
use kiln_builder::ImageDetails;
use serde_json::{Value, json};

use crate::message::Failure;
use crate::state;

/// The arguments of `kiln inspect`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The images: names, or ids or the beginnings of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs `kiln inspect`: prints a list with one object per image.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = state::open()?;
    let mut documents = Vec::new();
    for image in &arguments.images {
        documents.push(document(&engine.inspect(image)?));
    }
    super::print(&format!("{:#}\n", Value::Array(documents)))
}

fn document(image: &ImageDetails) -> Value {
    json!({
        "name": image.name,
        "digest": image.digest.to_string(),
        "id": image.manifest.config.digest.to_string(),
        "size": image.size,
        "descriptor": image.descriptor,
        "manifest": image.manifest,
        "config": image.config,
    })
}
