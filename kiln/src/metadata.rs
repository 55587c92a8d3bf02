//! What scripts learn about a result: the id, and the document of `--metadata-file`.

use kiln_builder::{BuildRequest, BuildResult, BuiltImage};
use serde_json::{Map, Value, json};

/// Returns the image's id: the digest of its config, or of the index of several platforms.
pub fn id(image: &BuiltImage) -> String {
    image.config.unwrap_or(image.descriptor.digest).to_string()
}

/// Returns the metadata document: JSON with sorted keys, the names as buildx has them.
pub fn document(request: &BuildRequest, result: &BuildResult) -> String {
    let mut document = Map::new();
    if let Some(image) = &result.image {
        document.insert("containerimage.digest".to_owned(), json!(image.descriptor.digest.to_string()));
        document.insert("containerimage.descriptor".to_owned(), json!(image.descriptor));
        if let Some(config) = &image.config {
            document.insert("containerimage.config.digest".to_owned(), json!(config.to_string()));
        }
        let names: Vec<_> = request.names.iter().map(ToString::to_string).collect();
        if !names.is_empty() {
            document.insert("image.name".to_owned(), json!(names.join(",")));
        }
    }
    document.insert("kiln.steps".to_owned(), json!(result.steps));
    document.insert("kiln.steps.cached".to_owned(), json!(result.cached));
    let mut text = format!("{:#}", Value::Object(document));
    text.push('\n');
    text
}

#[cfg(test)]
pub mod tests {
    use insta::assert_snapshot;
    use kiln_oci::{Descriptor, Digest, media_type};

    use super::*;

    /// An image under these names.
    pub fn result(names: &[&str], pushed: &[&str]) -> BuildResult {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        BuildResult {
            image: Some(BuiltImage {
                descriptor: Descriptor::new(media_type::MANIFEST, Digest::of("manifest"), 8),
                config: Some(Digest::of("config")),
                size: 7_344_128,
                names: owned(names),
                pushed: owned(pushed),
            }),
            cached: 3,
            steps: 5,
            warnings: Vec::new(),
        }
    }

    /// A request for these names.
    pub fn request(names: &[&str]) -> BuildRequest {
        BuildRequest {
            context: None,
            build_file: kiln_builder::BuildFile { name: "Dockerfile".to_owned(), text: Vec::new() },
            options: kiln_frontend::lower::Request::default(),
            platforms: Vec::new(),
            names: names.iter().map(|name| crate::input::value::tag(name).unwrap()).collect(),
            outputs: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Default::default(),
            pull: false,
            allowed: Default::default(),
            resources: Default::default(),
            jobs: None,
            step_timeout: None,
            keeps_failed: false,
        }
    }

    #[test]
    fn the_document_has_the_keys_that_scripts_know() {
        let text = document(&request(&["app", "b:2"]), &result(&["docker.io/library/app:latest"], &[]));
        assert_snapshot!(text, @r#"
        {
          "containerimage.config.digest": "sha256:b79606fb3afea5bd1609ed40b622142f1c98125abcfe89a76a661b0e8e343910",
          "containerimage.descriptor": {
            "digest": "sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f",
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": 8
          },
          "containerimage.digest": "sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f",
          "image.name": "docker.io/library/app:latest,docker.io/library/b:2",
          "kiln.steps": 5,
          "kiln.steps.cached": 3
        }
        "#);
        assert_eq!(id(&result(&[], &[]).image.unwrap()), Digest::of("config").to_string());
    }
}
