//! The last lines of a build: what there is now, and what can be done with it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use kiln_builder::{BuildRequest, BuildResult, BuiltImage, Destination, Output};
use kiln_oci::Reference;

use crate::units::{bytes, seconds};

/// Draws the summary. A line that ends in a digest or a path has nothing behind it, so that it can be picked up whole.
pub fn draw(request: &BuildRequest, result: &BuildResult, took: Duration) -> String {
    let mut text = String::from("\n");
    let steps =
        format!("{} of {} step{} cached", result.cached, result.steps, if result.steps == 1 { "" } else { "s" });
    let Some(image) = &result.image else {
        let _ = writeln!(text, "built in {}, {steps}", seconds(took));
        written(request, &mut text);
        return text;
    };
    let names = shown_names(request, image);
    match names.first() {
        Some(first) => {
            let _ = writeln!(text, "built  {first}");
            for name in &names[1..] {
                let _ = writeln!(text, "       {name}");
            }
        }
        None => text.push_str("built  an image without a name\n"),
    }
    let _ = writeln!(text, "digest {}", image.descriptor.digest);
    if let Some(config) = &image.config {
        let _ = writeln!(text, "id     {config}");
    }
    let _ = writeln!(text, "size   {} in {}, {steps}", bytes(image.size), seconds(took));
    written(request, &mut text);
    if !image.pushed.is_empty() {
        let _ = writeln!(text, "pushed {}", image.pushed.join(", "));
    }
    let _ = writeln!(text, "next:  {}", next(request, image, &names));
    text
}

fn shown_names(request: &BuildRequest, image: &BuiltImage) -> Vec<String> {
    if image.names.is_empty() {
        return request.names.iter().map(Reference::familiar).collect();
    }
    image
        .names
        .iter()
        .map(|name| name.parse::<Reference>().map_or_else(|_| name.clone(), |name| name.familiar()))
        .collect()
}

fn written(request: &BuildRequest, text: &mut String) {
    for output in &request.outputs {
        if let Some(path) = path_of(output) {
            let _ = writeln!(text, "wrote  {}", path.display());
        }
    }
}

fn path_of(output: &Output) -> Option<&Path> {
    match output {
        Output::Oci { destination: Destination::File(path), .. }
        | Output::Docker { destination: Destination::File(path), .. }
        | Output::Tar { destination: Destination::File(path) }
        | Output::Local { directory: path, .. } => Some(path),
        _ => None,
    }
}

/// One thing that people do next.
fn next(request: &BuildRequest, image: &BuiltImage, names: &[String]) -> String {
    if let Some(name) = image.pushed.first() {
        return format!("run it: `docker run --rm {name}` or `podman run --rm {name}`");
    }
    for output in &request.outputs {
        match output {
            Output::Docker { destination: Destination::File(path), .. } => {
                return format!("load it: `docker load -i {}`", path.display());
            }
            Output::Oci { destination: Destination::File(path), tar: true, .. } => {
                return format!("load it: `podman load -i {}`", path.display());
            }
            Output::Oci { destination: Destination::File(path), .. } => {
                return format!("look at it: `skopeo inspect oci:{}`", path.display());
            }
            _ => {}
        }
    }
    match (names.first(), request.names.first()) {
        // Nobody can push to the names that have no registry and no owner.
        (Some(name), Some(first)) if first.domain == "docker.io" && first.path.starts_with("library/") => {
            format!(
                "see how it came about: `kiln history {name}`, or send it off: `kiln tag {name} REGISTRY/{name}` and `kiln push REGISTRY/{name}`"
            )
        }
        (Some(name), _) => format!("send it to its registry: `kiln push {name}`"),
        (None, _) => {
            let id = crate::metadata::id(image);
            let short = id.strip_prefix("sha256:").unwrap_or(&id).get(..12).unwrap_or(&id);
            format!("give it a name: `kiln tag {short} NAME`")
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use kiln_builder::LayerOptions;

    use super::*;
    use crate::metadata::tests::{request, result};

    fn drawn(request: &BuildRequest, result: &BuildResult) -> String {
        let text = draw(request, result, Duration::from_millis(412));
        text.lines()
            .map(|line| if line.contains("sha256:") { &line[..20] } else { line })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_named_image() {
        assert_snapshot!(drawn(&request(&["app:dev"]), &result(&["docker.io/library/app:dev"], &[])), @r"

        built  app:dev
        digest sha256:05b3ab
        id     sha256:b79606
        size   7.34MB in 0.4s, 3 of 5 steps cached
        next:  see how it came about: `kiln history app:dev`, or send it off: `kiln tag app:dev REGISTRY/app:dev` and `kiln push REGISTRY/app:dev`
        ");
    }

    #[test]
    fn what_comes_next_depends_on_what_was_made() {
        let next =
            |request: &BuildRequest, result: &BuildResult| drawn(request, result).lines().last().unwrap().to_owned();
        let name = "127.0.0.1:5000/app:dev";
        assert_eq!(
            next(&request(&[name]), &result(&[name], &[name])),
            "next:  run it: `docker run --rm 127.0.0.1:5000/app:dev` or `podman run --rm 127.0.0.1:5000/app:dev`"
        );
        assert_eq!(
            next(&request(&[name]), &result(&[name], &[])),
            "next:  send it to its registry: `kiln push 127.0.0.1:5000/app:dev`"
        );
        assert_eq!(next(&request(&[]), &result(&[], &[])), "next:  give it a name: `kiln tag b79606fb3afe NAME`");
        let mut archive = request(&[]);
        let destination = Destination::File("/x/app.tar".into());
        archive.outputs.push(Output::Docker { destination, layers: LayerOptions::default() });
        assert_eq!(next(&archive, &result(&[], &[])), "next:  load it: `docker load -i /x/app.tar`");
    }

    #[test]
    fn files_only() {
        let mut request = request(&[]);
        request.outputs.push(Output::Local { directory: "/x/out".into(), split: None });
        let result = BuildResult { image: None, ..result(&[], &[]) };
        assert_snapshot!(drawn(&request, &result), @r"

        built in 0.4s, 3 of 5 steps cached
        wrote  /x/out
        ");
    }
}
