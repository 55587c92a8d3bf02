//! The keys that must not change by accident, and what may not be in a key.

use super::super::{CacheOwner, Edge, VertexId};
use super::*;

fn vertex(op: Op) -> Vertex {
    Vertex {
        op,
        inputs: Vec::new(),
        platform: Some(Platform::new("linux", "amd64")),
        name: "shown".to_owned(),
        stage: None,
        location: None,
        ignore_cache: false,
    }
}

fn exec() -> Exec {
    Exec {
        args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
        env: vec!["PATH=/bin".into()],
        cwd: "/src".into(),
        user: String::new(),
        hostname: String::new(),
        extra_hosts: Vec::new(),
        network: Network::Default,
        security: Security::Sandbox,
        mounts: Vec::new(),
        proxy_env: Vec::new(),
        ulimits: Vec::new(),
        shm_size: None,
        cgroup_parent: String::new(),
        devices: Vec::new(),
    }
}

fn copy(source: &str) -> Copy {
    Copy {
        from: CopyFrom::Input(1),
        source: source.to_owned(),
        destination: "/app/".to_owned(),
        owner: None,
        mode: None,
        wildcards: true,
        follow_symlinks: true,
        contents_only: true,
        unpack: false,
        include: None,
        required: Vec::new(),
        exclude: Vec::new(),
    }
}

fn file(copy: Copy) -> Op {
    Op::File(FileOp { actions: vec![FileAction::Copy(copy)] })
}

fn with_mount(read_only: bool, kind: MountKind) -> Op {
    Op::Exec(Exec { mounts: vec![Mount { target: "/m".into(), read_only, kind }], ..exec() })
}

fn with_copy(change: impl FnOnce(&mut Copy)) -> Op {
    let mut copy = copy("/a/x.txt");
    change(&mut copy);
    file(copy)
}

fn with_exec(change: impl FnOnce(&mut Exec)) -> Op {
    let mut exec = exec();
    change(&mut exec);
    Op::Exec(exec)
}

fn cache(id: &str, sharing: Sharing) -> MountKind {
    let owner = CacheOwner { uid: 0, gid: 0, mode: 0o755 };
    MountKind::Cache { id: id.into(), sharing, input: None, source: "/".into(), owner }
}

fn secret(env: Option<&str>, required: bool) -> MountKind {
    MountKind::Secret { id: "s".into(), file: true, env: env.map(str::to_owned), required, uid: 0, gid: 0, mode: 0o400 }
}

fn git(reference: &str, keep_git_dir: bool, checksum: Option<&str>) -> Op {
    Op::Source(Source::Git {
        remote: "https://example.org/r.git".into(),
        reference: reference.into(),
        subdir: String::new(),
        keep_git_dir,
        checksum: checksum.map(str::to_owned),
        submodules: true,
        commit_times: false,
    })
}

/// Every op and every field that is in a key, once.
fn samples() -> Vec<(&'static str, Op)> {
    let http = |filename: &str, checksum| {
        Op::Source(Source::Http { url: "https://example.org/x".into(), filename: filename.into(), checksum })
    };
    let make_dir = |owner, time| {
        Op::File(FileOp { actions: vec![FileAction::MakeDir { path: "/w".into(), mode: 0o755, owner, time }] })
    };
    let owner = |user, group| Some(Owner { user, group });
    vec![
        ("image", Op::Source(Source::Image { reference: "docker.io/library/alpine:3".into() })),
        ("oci layout", Op::Source(Source::OciLayout { store: "here".into(), digest: Digest::of("x") })),
        ("local", Op::Source(Source::Local(LocalSource { name: "context".into(), follow_paths: vec!["a".into()] }))),
        ("local, other name", Op::Source(Source::Local(LocalSource { name: "other".into(), follow_paths: vec![] }))),
        ("http", http("x", None)),
        ("http, file name", http("y", None)),
        ("http, checksum", http("x", Some(ReferenceDigest::Sha256(Digest::of("x"))))),
        ("git", git("", false, None)),
        ("git, reference", git("main", false, None)),
        ("git, kept directory", git("", true, None)),
        ("git, checksum", git("", false, Some("abc"))),
        ("merge", Op::Merge),
        ("exec", Op::Exec(exec())),
        ("exec, args", with_exec(|e| e.args = vec!["/bin/sh".into(), "-cmake".into()])),
        ("exec, env", with_exec(|e| e.env.push("A=".into()))),
        ("exec, cwd", with_exec(|e| e.cwd = "/".into())),
        ("exec, user", with_exec(|e| e.user = "app".into())),
        ("exec, hostname", with_exec(|e| e.hostname = "h".into())),
        ("exec, hosts", with_exec(|e| e.extra_hosts = vec![("h".into(), "10.0.0.1".into())])),
        ("exec, no network", with_exec(|e| e.network = Network::None)),
        ("exec, host network", with_exec(|e| e.network = Network::Host)),
        ("exec, insecure", with_exec(|e| e.security = Security::Insecure)),
        ("exec, ulimits", with_exec(|e| e.ulimits = vec!["nofile=1024".into()])),
        ("exec, shm", with_exec(|e| e.shm_size = Some(1 << 20))),
        ("exec, cgroup", with_exec(|e| e.cgroup_parent = "p".into())),
        ("exec, device", with_exec(|e| e.devices = vec![("d".into(), false)])),
        ("exec, required device", with_exec(|e| e.devices = vec![("d".into(), true)])),
        ("bind", with_mount(true, MountKind::Bind { input: 1, source: "/a".into() })),
        ("bind, writable", with_mount(false, MountKind::Bind { input: 1, source: "/a".into() })),
        ("bind, path", with_mount(true, MountKind::Bind { input: 1, source: "/b".into() })),
        ("cache", with_mount(false, cache("/c", Sharing::Shared))),
        ("tmpfs", with_mount(false, MountKind::Tmpfs { size: 0 })),
        ("tmpfs, size", with_mount(false, MountKind::Tmpfs { size: 10 })),
        ("secret", with_mount(true, secret(None, false))),
        ("secret, variable", with_mount(true, secret(Some("S"), false))),
        ("secret, required", with_mount(true, secret(None, true))),
        ("ssh", with_mount(true, MountKind::Ssh { id: "d".into(), required: false, uid: 0, gid: 0, mode: 0o600 })),
        ("directory", make_dir(None, None)),
        ("directory, owner", make_dir(owner(Principal::Id(1), None), None)),
        ("directory, owner and group", make_dir(owner(Principal::Id(1), Some(Principal::Name("g".into()))), None)),
        ("directory, owner by name", make_dir(owner(Principal::Name("u".into()), None), None)),
        ("directory, time", make_dir(None, Some(0))),
        ("copy", file(copy("/a/x.txt"))),
        ("copy, name", file(copy("/a/y.txt"))),
        ("copy, path", file(copy("/b/x.txt"))),
        ("copy, inline", with_copy(|c| c.from = CopyFrom::Inline { name: "x".into(), data: b"y".to_vec() })),
        ("copy, destination", with_copy(|c| c.destination = "/app".into())),
        ("copy, mode", with_copy(|c| c.mode = Some(Mode::Octal(0o644)))),
        ("copy, symbolic mode", with_copy(|c| c.mode = Some(Mode::Symbolic("g+w".into())))),
        ("copy, owner", with_copy(|c| c.owner = owner(Principal::Id(1), Some(Principal::Id(2))))),
        ("copy, unpack", with_copy(|c| c.unpack = true)),
        ("copy, literal", with_copy(|c| c.wildcards = false)),
        ("copy, links", with_copy(|c| c.follow_symlinks = false)),
        ("copy, directory", with_copy(|c| c.contents_only = false)),
        ("copy, include nothing", with_copy(|c| c.include = Some(Vec::new()))),
        ("copy, include", with_copy(|c| c.include = Some(vec!["a".into()]))),
        ("copy, required", with_copy(|c| c.required = vec!["a".into()])),
        ("copy, exclude", with_copy(|c| c.exclude = vec!["a".into()])),
    ]
}

/// A failure here means that every store in the world misses. If that is meant, take a new
/// schema name for the op and then a new digest here.
#[test]
fn keys_stay_as_they_are() {
    let mut lines = String::new();
    for (name, op) in samples() {
        let digest = op_digest(&vertex(op)).hex();
        lines.push_str(&format!("{} {name}\n", &digest[..16]));
    }
    insta::assert_snapshot!(lines, @r#"
    a04257091f0ecd0d image
    dc0117503ef49377 oci layout
    28dd865fa7826203 local
    f9b891a264a6250d local, other name
    105105dff2e87743 http
    1cb7f0e705bcab0f http, file name
    332162ada57b9aac http, checksum
    9a8de7c7caf8a76d git
    d1e6688355eff3d0 git, reference
    25ae1b6e9dc22829 git, kept directory
    a2854a5a5744b951 git, checksum
    d284b4ff292a978f merge
    3c02e405289a23e6 exec
    605bb6fad584cdc2 exec, args
    8bf6ab5546dedab2 exec, env
    ade27bbc583b7880 exec, cwd
    19329af81034094b exec, user
    44d49ef315c501e4 exec, hostname
    838357282891729b exec, hosts
    6a5d4a649544235b exec, no network
    e9664c8f3c7874b0 exec, host network
    9dbe4e3a0de328e4 exec, insecure
    e72b0b98316cdd15 exec, ulimits
    ce78ea1288638174 exec, shm
    9a322366e59651a4 exec, cgroup
    c69dc4cf13603453 exec, device
    95ea7339fb882dff exec, required device
    e6369853f9aeb8b3 bind
    e0af8b8af7b35a84 bind, writable
    37a6e2d9f62fde6d bind, path
    aa18e4afd8c03fbe cache
    03013eab729069b0 tmpfs
    ddda1daf05b47559 tmpfs, size
    0cb40928bef6800c secret
    7f77fd85a6dc27cd secret, variable
    2d69883fb326466e secret, required
    d99222d16f8ed02d ssh
    192f750b309a4b5b directory
    339a3260fe0a95ae directory, owner
    701e62f1bcbc843a directory, owner and group
    1aadb015ae34ce61 directory, owner by name
    e6cedff6e735ebe3 directory, time
    558ecb467d3eab46 copy
    21a3b498de59392e copy, name
    ae85a9563b0355db copy, path
    44abf2bc6d5b3319 copy, inline
    507b9f564a9d94da copy, destination
    b2c33ddbdd1cda69 copy, mode
    f17132e2e944d2b9 copy, symbolic mode
    24a345812c15a23a copy, owner
    a5bbd693add0c80e copy, unpack
    fff244a09fc06941 copy, literal
    bdc8ab5ebac2f695 copy, links
    e8f411b077a81e57 copy, directory
    1a56ebcce5c2e7ea copy, include nothing
    020af7f89e3a6f82 copy, include
    1c8c708417f8e27e copy, required
    5c837f235bcc53c4 copy, exclude
    "#);
}

#[test]
fn every_field_in_a_key_counts() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, op) in samples() {
        if let Some(other) = seen.insert(op_digest(&vertex(op)), name) {
            panic!("{name} has the key of {other}");
        }
    }
}

#[track_caller]
fn same(a: Op, b: Op) {
    assert_eq!(op_digest(&vertex(a)), op_digest(&vertex(b)));
}

#[test]
fn what_changes_no_result_is_not_in_the_key() {
    same(with_exec(|e| e.proxy_env = vec!["HTTP_PROXY=x".into()]), Op::Exec(exec()));
    same(
        with_exec(|e| e.extra_hosts = vec![("h".into(), "10.0.0.1".into())]),
        with_exec(|e| e.extra_hosts = vec![("h".into(), "10.0.0.2".into())]),
    );
    same(with_mount(false, cache("/c", Sharing::Shared)), with_mount(false, cache("/d", Sharing::Locked)));
    same(
        Op::Source(Source::Local(LocalSource { name: "context".into(), follow_paths: vec!["a".into()] })),
        Op::Source(Source::Local(LocalSource { name: "context".into(), follow_paths: vec![] })),
    );
    let mut renamed = vertex(Op::Merge);
    renamed.name = "other".into();
    renamed.ignore_cache = true;
    assert_eq!(op_digest(&renamed), op_digest(&vertex(Op::Merge)));
}

#[test]
fn the_platform_counts_for_commands_and_images_only() {
    let on_arm = |op| Vertex { platform: Some(Platform::new("linux", "arm64")), ..vertex(op) };
    assert_ne!(op_digest(&on_arm(Op::Exec(exec()))), op_digest(&vertex(Op::Exec(exec()))));
    assert_eq!(op_digest(&on_arm(file(copy("/a")))), op_digest(&vertex(file(copy("/a")))));
    assert_eq!(op_digest(&on_arm(Op::Merge)), op_digest(&vertex(Op::Merge)));
}

#[test]
fn a_moved_file_has_the_same_content_key() {
    let key = |source: &str| content_op_digest(&vertex(file(copy(source))));
    assert_eq!(key("/a/x.txt"), key("/b/c/x.txt"));
    assert_ne!(key("/a/x.txt"), key("/a/y.txt"));
}

#[test]
fn a_vertex_is_told_apart_by_what_is_below_it() {
    let mut graph = Graph::default();
    let image = |name: &str| vertex(Op::Source(Source::Image { reference: name.into() }));
    let a = graph.push(image("a"));
    let b = graph.push(image("b"));
    let on = |edge| Vertex { inputs: vec![edge], ..vertex(Op::Exec(exec())) };
    for edge in [Some(a), Some(b), None, Some(a), Some(Edge { output: 1, ..a })] {
        graph.push(on(edge));
    }
    let digests = vertex_digests(&graph);
    assert_eq!(digests[2], digests[5]);
    let different: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(different.len(), 6);
    assert_eq!(a.vertex, VertexId(0));
}
