//! `kiln inspect`.

use clap::Args;
use kiln_builder::{ImageDetails, PlatformImage};
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
    let mut document = json!({
        "name": image.name,
        "digest": image.descriptor.digest.to_string(),
        "id": image.id().map(|id| id.to_string()),
        "size": image.size,
        "descriptor": image.descriptor,
    });
    let parts = |image: &PlatformImage| json!({"manifest": image.manifest, "config": image.config});
    match (&image.index, &image.images[..]) {
        (None, [only]) => {
            document["manifest"] = json!(only.manifest);
            document["config"] = json!(only.config);
        }
        (index, images) => {
            document["index"] = json!(index);
            document["images"] = images.iter().map(parts).collect();
        }
    }
    document
}
