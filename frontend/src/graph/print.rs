//! A graph for people and programs: text, JSON, and the language of `dot`.
//!
//! Renderers are pure, and equal graphs give equal texts. Values of proxy variables are not
//! printed: they may hold passwords.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    Copy, CopyFrom, Edge, Exec, FileAction, Graph, Mode, Mount, MountKind, Network, Op, Owner, Principal, Security,
    Sharing, Source, Vertex, vertex_digests,
};

/// Renders a graph as lines: for each vertex its number, name and inputs, and below that what
/// it does. The vertex that makes the result is marked with `*`.
pub fn text(graph: &Graph, root: Option<Edge>) -> String {
    let width = graph.vertices.len().saturating_sub(1).to_string().len();
    let mut out = String::new();
    for (number, vertex) in graph.vertices.iter().enumerate() {
        let mark = if is_root(root, number) { '*' } else { ' ' };
        let _ = write!(out, "{mark}{number:>width$} {}", one_line(&vertex.name));
        if !vertex.inputs.is_empty() {
            let inputs: Vec<String> = vertex.inputs.iter().map(|&input| edge_text(input)).collect();
            let _ = write!(out, "  <- {}", inputs.join(", "));
        }
        out.push('\n');
        for line in details(vertex) {
            let _ = writeln!(out, " {:width$}   {}", "", one_line(&line));
        }
    }
    if root.is_none() {
        out.push_str("the result is empty\n");
    }
    out
}

/// Renders a graph as a JSON document, indented, with its members sorted by name.
pub fn json(graph: &Graph, root: Option<Edge>) -> String {
    let mut text = format!("{:#}", value(graph, root));
    text.push('\n');
    text
}

/// Returns a graph as a JSON value.
pub fn value(graph: &Graph, root: Option<Edge>) -> Value {
    let digests = vertex_digests(graph);
    let vertices: Vec<Value> =
        graph.vertices.iter().zip(&digests).map(|(vertex, digest)| vertex_value(vertex, &digest.to_string())).collect();
    json!({ "vertices": vertices, "root": edge_value(root) })
}

/// Renders a graph for `dot`: `kiln build --print=dot . | dot -Tsvg`.
pub fn dot(graph: &Graph, root: Option<Edge>) -> String {
    let mut out = String::from("digraph build {\n  rankdir=BT;\n  node [shape=box, fontname=\"monospace\"];\n");
    for (number, vertex) in graph.vertices.iter().enumerate() {
        let shape = match vertex.op {
            Op::Source(_) => ", style=rounded",
            Op::Exec(_) => ", style=bold",
            Op::File(_) | Op::Merge => "",
        };
        let _ = writeln!(out, "  v{number} [label={}{shape}];", dot_quoted(&vertex.name));
        for (index, input) in vertex.inputs.iter().enumerate() {
            let Some(input) = input else { continue };
            let style = if index == 0 { "" } else { " [style=dashed]" };
            let _ = writeln!(out, "  v{} -> v{number}{style};", input.vertex.0);
        }
        if is_root(root, number) {
            let _ = writeln!(out, "  v{number} -> result;\n  result [shape=plaintext];");
        }
    }
    out.push_str("}\n");
    out
}

fn is_root(root: Option<Edge>, number: usize) -> bool {
    root.is_some_and(|edge| edge.vertex.0 as usize == number)
}

fn edge_text(edge: Option<Edge>) -> String {
    match edge {
        None => "empty".to_owned(),
        Some(Edge { vertex, output: 0 }) => vertex.0.to_string(),
        Some(Edge { vertex, output }) => format!("{}.{output}", vertex.0),
    }
}

fn edge_value(edge: Option<Edge>) -> Value {
    edge.map_or(Value::Null, |edge| json!({ "vertex": edge.vertex.0, "output": edge.output }))
}

/// Keeps a line a line, and a terminal safe from what a build file holds.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn dot_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\l"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn details(vertex: &Vertex) -> Vec<String> {
    let platform = vertex.platform.as_ref().map(|platform| format!(" for {platform}")).unwrap_or_default();
    match &vertex.op {
        Op::Source(source) => vec![source_text(source, &platform)],
        Op::Exec(exec) => exec_text(exec, &platform),
        Op::File(file) => file.actions.iter().map(action_text).collect(),
        Op::Merge => vec!["merge".to_owned()],
    }
}

fn source_text(source: &Source, platform: &str) -> String {
    match source {
        Source::Image { reference } => format!("image {reference}{platform}"),
        Source::OciLayout { store, digest } => format!("oci layout {store} {digest}{platform}"),
        Source::Local(local) if local.follow_paths.is_empty() => format!("local {}: all of it", local.name),
        Source::Local(local) => format!("local {}: {}", local.name, local.follow_paths.join(", ")),
        Source::Http { url, filename, .. } => format!("http {url} as {filename}"),
        Source::Git { remote, reference, subdir, .. } => format!("git {remote}#{reference}:{subdir}"),
    }
}

fn exec_text(exec: &Exec, platform: &str) -> Vec<String> {
    let user = if exec.user.is_empty() { String::new() } else { format!(" as {}", exec.user) };
    let mut lines = vec![format!("exec {:?} in {}{user}{platform}", exec.args, exec.cwd)];
    lines.extend(exec.env.iter().map(|variable| format!("env {variable}")));
    lines.extend(exec.mounts.iter().map(mount_text));
    if exec.network != Network::Default {
        lines.push(format!("network {}", network_name(exec.network)));
    }
    if exec.security != Security::Sandbox {
        lines.push(format!("security {}", security_name(exec.security)));
    }
    lines
}

fn mount_text(mount: &Mount) -> String {
    let access = if mount.read_only { " read-only" } else { "" };
    let what = match &mount.kind {
        MountKind::Bind { input, source } => format!("bind input {input} {source}"),
        MountKind::Cache { id, sharing, .. } => format!("cache {id} {}", sharing_name(*sharing)),
        MountKind::Tmpfs { .. } => "tmpfs".to_owned(),
        MountKind::Secret { id, .. } => format!("secret {id}"),
        MountKind::Ssh { id, .. } => format!("ssh {id}"),
    };
    format!("mount {what} at {}{access}", mount.target)
}

fn action_text(action: &FileAction) -> String {
    match action {
        FileAction::MakeDir { path, mode, owner, .. } => {
            format!("mkdir {path} mode {mode:04o}{}", owner_suffix(owner.as_ref()))
        }
        FileAction::Copy(copy) => {
            let from = match &copy.from {
                CopyFrom::Input(input) => format!("input {input} {}", copy.source),
                CopyFrom::Inline { name, data } => format!("inline {name} ({} bytes)", data.len()),
            };
            let mode = match &copy.mode {
                None => String::new(),
                Some(mode) => format!(" mode {}", mode_text(mode)),
            };
            format!("copy {from} to {}{}{mode}", copy.destination, owner_suffix(copy.owner.as_ref()))
        }
    }
}

fn owner_suffix(owner: Option<&Owner>) -> String {
    owner.map(|owner| format!(" owner {}", owner_text(owner))).unwrap_or_default()
}

fn owner_text(owner: &Owner) -> String {
    let principal = |principal: &Principal| match principal {
        Principal::Id(id) => id.to_string(),
        Principal::Name(name) => name.clone(),
    };
    match &owner.group {
        None => principal(&owner.user),
        Some(group) => format!("{}:{}", principal(&owner.user), principal(group)),
    }
}

fn mode_text(mode: &Mode) -> String {
    match mode {
        Mode::Octal(mode) => format!("{mode:04o}"),
        Mode::Symbolic(mode) => mode.clone(),
    }
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    }
}

fn security_name(security: Security) -> &'static str {
    match security {
        Security::Sandbox => "sandbox",
        Security::Insecure => "insecure",
    }
}

fn sharing_name(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
        Sharing::Locked => "locked",
    }
}

fn vertex_value(vertex: &Vertex, digest: &str) -> Value {
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("digest", json!(digest));
    set("name", json!(vertex.name));
    set("op", op_value(&vertex.op));
    set("inputs", vertex.inputs.iter().map(|&input| edge_value(input)).collect());
    if let Some(platform) = &vertex.platform {
        set("platform", json!(platform));
    }
    if let Some(stage) = &vertex.stage {
        set("stage", json!(stage));
    }
    if let Some(location) = &vertex.location {
        set("lines", json!([location.lines.0, location.lines.1]));
    }
    if vertex.ignore_cache {
        set("ignoreCache", json!(true));
    }
    Value::Object(out)
}

fn op_value(op: &Op) -> Value {
    match op {
        Op::Source(source) => json!({ "source": source_value(source) }),
        Op::Exec(exec) => json!({ "exec": exec_value(exec) }),
        Op::File(file) => json!({ "file": file.actions.iter().map(action_value).collect::<Vec<_>>() }),
        Op::Merge => json!({ "merge": {} }),
    }
}

fn source_value(source: &Source) -> Value {
    match source {
        Source::Image { reference } => json!({ "image": reference }),
        Source::OciLayout { store, digest } => json!({ "ociLayout": store, "digest": digest }),
        Source::Local(local) => json!({ "local": local.name, "followPaths": local.follow_paths }),
        Source::Http { url, filename, checksum } => {
            json!({ "http": url, "filename": filename, "checksum": checksum.as_ref().map(ToString::to_string) })
        }
        Source::Git { remote, reference, subdir, keep_git_dir, checksum, submodules, commit_times } => json!({
            "git": remote, "reference": reference, "subdir": subdir, "keepGitDir": keep_git_dir,
            "checksum": checksum, "submodules": submodules, "commitTimes": commit_times,
        }),
    }
}

fn exec_value(exec: &Exec) -> Value {
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("args", json!(exec.args));
    set("env", json!(exec.env));
    set("cwd", json!(exec.cwd));
    set("network", json!(network_name(exec.network)));
    set("security", json!(security_name(exec.security)));
    if !exec.user.is_empty() {
        set("user", json!(exec.user));
    }
    if !exec.hostname.is_empty() {
        set("hostname", json!(exec.hostname));
    }
    if !exec.extra_hosts.is_empty() {
        set("extraHosts", exec.extra_hosts.iter().map(|(name, ip)| json!([name, ip])).collect());
    }
    if !exec.mounts.is_empty() {
        set("mounts", exec.mounts.iter().map(mount_value).collect());
    }
    if !exec.proxy_env.is_empty() {
        let names = exec.proxy_env.iter().map(|variable| variable.split('=').next().unwrap_or_default());
        set("proxyEnv", json!(names.collect::<Vec<_>>()));
    }
    if !exec.ulimits.is_empty() {
        set("ulimits", json!(exec.ulimits));
    }
    if let Some(size) = exec.shm_size {
        set("shmSize", json!(size));
    }
    if !exec.cgroup_parent.is_empty() {
        set("cgroupParent", json!(exec.cgroup_parent));
    }
    if !exec.devices.is_empty() {
        set("devices", exec.devices.iter().map(|(name, required)| json!([name, required])).collect());
    }
    Value::Object(out)
}

fn mount_value(mount: &Mount) -> Value {
    let mut value = match &mount.kind {
        MountKind::Bind { input, source } => json!({ "type": "bind", "input": input, "source": source }),
        MountKind::Cache { id, sharing, input, source, owner } => json!({
            "type": "cache", "id": id, "sharing": sharing_name(*sharing), "input": input, "source": source,
            "uid": owner.uid, "gid": owner.gid, "mode": format!("{:04o}", owner.mode),
        }),
        MountKind::Tmpfs { size } => json!({ "type": "tmpfs", "size": size }),
        MountKind::Secret { id, file, env, required, uid, gid, mode } => json!({
            "type": "secret", "id": id, "file": file, "env": env, "required": required,
            "uid": uid, "gid": gid, "mode": format!("{mode:04o}"),
        }),
        MountKind::Ssh { id, required, uid, gid, mode } => json!({
            "type": "ssh", "id": id, "required": required, "uid": uid, "gid": gid, "mode": format!("{mode:04o}"),
        }),
    };
    value["target"] = json!(mount.target);
    value["readOnly"] = json!(mount.read_only);
    value
}

fn action_value(action: &FileAction) -> Value {
    match action {
        FileAction::MakeDir { path, mode, owner, time } => json!({ "makeDir": {
            "path": path, "mode": format!("{mode:04o}"), "owner": owner.as_ref().map(owner_text), "time": time,
        } }),
        FileAction::Copy(copy) => json!({ "copy": copy_value(copy) }),
    }
}

fn copy_value(copy: &Copy) -> Value {
    let from = match &copy.from {
        CopyFrom::Input(input) => json!({ "input": input }),
        CopyFrom::Inline { name, data } => json!({ "inline": name, "data": String::from_utf8_lossy(data) }),
    };
    json!({
        "from": from, "source": copy.source, "destination": copy.destination,
        "owner": copy.owner.as_ref().map(owner_text), "mode": copy.mode.as_ref().map(mode_text),
        "wildcards": copy.wildcards, "followSymlinks": copy.follow_symlinks, "contentsOnly": copy.contents_only,
        "unpack": copy.unpack, "include": copy.include, "required": copy.required, "exclude": copy.exclude,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{FileOp, LocalSource};
    use super::*;

    fn vertex(name: &str, op: Op, inputs: Vec<Option<Edge>>) -> Vertex {
        Vertex { op, inputs, platform: None, name: name.to_owned(), stage: None, location: None, ignore_cache: false }
    }

    fn sample() -> (Graph, Option<Edge>) {
        let mut graph = Graph::default();
        let local = LocalSource { name: "context".into(), follow_paths: vec!["a".into()] };
        let context = graph.push(vertex("[internal] load build context", Op::Source(Source::Local(local)), vec![]));
        let copy = Copy {
            from: CopyFrom::Input(1),
            source: "/a".into(),
            destination: "/b".into(),
            owner: Some(Owner { user: Principal::Id(1), group: None }),
            mode: Some(Mode::Octal(0o644)),
            wildcards: true,
            follow_symlinks: true,
            contents_only: true,
            unpack: false,
            include: None,
            required: Vec::new(),
            exclude: Vec::new(),
        };
        let op = Op::File(FileOp { actions: vec![FileAction::Copy(copy)] });
        let root = graph.push(vertex("[1/1] COPY \"a\" /b\u{1b}", op, vec![None, Some(context)]));
        (graph, Some(root))
    }

    #[test]
    fn as_text() {
        let (graph, root) = sample();
        insta::assert_snapshot!(text(&graph, root), @r#"
     0 [internal] load build context
         local context: a
    *1 [1/1] COPY "a" /b\u{1b}  <- empty, 0
         copy input 1 /a to /b owner 1 mode 0644
    "#);
    }

    #[test]
    fn as_dot() {
        let (graph, root) = sample();
        insta::assert_snapshot!(dot(&graph, root), @r#"
    digraph build {
      rankdir=BT;
      node [shape=box, fontname="monospace"];
      v0 [label="[internal] load build context", style=rounded];
      v1 [label="[1/1] COPY \"a\" /b "];
      v0 -> v1 [style=dashed];
      v1 -> result;
      result [shape=plaintext];
    }
    "#);
    }

    #[test]
    fn json_reads_back_and_is_stable() {
        let (graph, root) = sample();
        let read: Value = serde_json::from_str(&json(&graph, root)).unwrap();
        assert_eq!(read, value(&graph, root));
        assert_eq!(read["vertices"][1]["op"]["file"][0]["copy"]["destination"], "/b");
        assert_eq!(read["root"]["vertex"], 1);
    }
}
