//! A registry in this process, which can be told to behave badly, and which remembers what it
//! was asked.
//!
//! It listens on a free port of 127.0.0.1, keeps everything in memory, and is gone when it is
//! dropped. It speaks the distribution protocol as far as clients use it: manifests, blobs with
//! ranges, uploads in one piece or several, mounts, tags, and both kinds of login.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_oci::{Descriptor, Digest};

use crate::Server;
pub use crate::wire::Request;
use crate::wire::{Manner, Response};

/// Who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Login {
    /// Everybody everything.
    #[default]
    Nobody,
    /// User and password with each request.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// Tokens from the registry's own token server. Who does not log in may pull.
    Token {
        /// The user who may push.
        user: String,
        /// The password.
        password: String,
    },
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Another status, with headers and a body.
    Status {
        /// The status.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// The right answer, but the connection ends after so many bytes of the body.
    Cut(usize),
    /// The right answer, but nothing comes after so many bytes of the body.
    Stall(usize),
    /// The right answer, so many bytes at a time with a pause after each.
    Slow(usize, Duration),
    /// The right answer in chunks, without its length.
    Chunked,
    /// The right length, but one bit is wrong.
    Flip,
    /// A redirection to the same path below this address.
    Redirect(String),
    /// The whole blob when a part was asked for.
    IgnoreRange,
    /// Another part than was asked for.
    WrongRange,
    /// A header is missing.
    Without(&'static str),
    /// A header is there, or has another value.
    With(&'static str, String),
    /// The connection ends without an answer.
    Hangup,
}

impl Fault {
    /// Answers with a status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Status { status, headers: Vec::new(), body: String::new() }
    }
}

/// Which requests a fault meets.
#[derive(Debug, Clone)]
struct Rule {
    method: String,
    target: String,
    times: u32,
    fault: Fault,
}

/// What the registry was asked and what it answered.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The request.
    pub request: Request,
    /// The status of the answer; 0 when there was none.
    pub status: u16,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Arc<Vec<u8>>>,
    /// Which repository has which blobs.
    linked: HashSet<(String, Digest)>,
    /// By repository and tag or digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<u32, Vec<u8>>,
    /// With their scopes.
    tokens: HashMap<String, Vec<String>>,
    rules: Vec<Rule>,
    exchanges: Vec<Exchange>,
}

struct Shared {
    state: Mutex<State>,
    login: Login,
    counter: AtomicU32,
}

/// A running registry.
pub struct Registry {
    shared: Arc<Shared>,
    server: Server,
}

impl Registry {
    /// Starts a registry that lets everybody in.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start() -> Self {
        Self::with_login(Login::Nobody)
    }

    /// Starts a registry that wants a login.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn with_login(login: Login) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), login, counter: AtomicU32::new(1) });
        let ours = Arc::clone(&shared);
        let server = Server::start(move |request| {
            let response = answer(&ours, request);
            let status = if response.manner == Manner::Hangup { 0 } else { response.status };
            ours.state().exchanges.push(Exchange { request: request.clone(), status });
            response
        });
        Self { shared, server }
    }

    /// Returns `127.0.0.1:port`, as a reference has it.
    pub fn address(&self) -> String {
        self.server.address().to_string()
    }

    /// Puts a blob into a repository.
    pub fn put_blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        let mut state = self.shared.state();
        state.blobs.insert(descriptor.digest, Arc::new(bytes.to_vec()));
        state.linked.insert((repository.to_owned(), descriptor.digest));
        descriptor
    }

    /// Puts a manifest under a tag and its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        self.shared.state().put_manifest(repository, tag, media_type, bytes);
        descriptor
    }

    /// Returns a manifest's media type and bytes by tag or digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        self.shared.state().manifests.get(&(repository.to_owned(), name.to_owned())).cloned()
    }

    /// Returns a blob, if the repository has it.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        let state = self.shared.state();
        let has = state.linked.contains(&(repository.to_owned(), *digest));
        state.blobs.get(digest).filter(|_| has).map(|bytes| bytes.to_vec())
    }

    /// Opens an upload, as a client does with a POST; returns its number.
    pub fn open_upload(&self) -> u32 {
        let id = self.shared.next();
        self.shared.state().uploads.insert(id, Vec::new());
        id
    }

    /// Lets the next `times` requests with this method (empty: any), whose target contains
    /// `target`, meet a fault. Faults queue up: the oldest that fits is taken.
    pub fn fault(&self, method: &str, target: &str, times: u32, fault: Fault) {
        self.shared.state().rules.push(Rule { method: method.into(), target: target.into(), times, fault });
    }

    /// Makes all tokens given out so far worthless.
    pub fn expire_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// Returns everything that was asked so far.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.state().exchanges.clone()
    }

    /// Counts the requests with this method (empty: any) whose target contains `target`.
    pub fn count(&self, method: &str, target: &str) -> usize {
        let state = self.shared.state();
        let fits =
            |e: &&Exchange| (method.is_empty() || e.request.method == method) && e.request.target.contains(target);
        state.exchanges.iter().filter(fits).count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

impl State {
    fn put_manifest(&mut self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        for name in [name.to_owned(), Digest::of(bytes).to_string()] {
            self.manifests.insert((repository.to_owned(), name), (media_type.to_owned(), bytes.to_vec()));
        }
    }

    fn take_fault(&mut self, request: &Request) -> Option<Fault> {
        let fits = |rule: &&mut Rule| {
            rule.times > 0
                && (rule.method.is_empty() || rule.method == request.method)
                && request.target.contains(&rule.target)
        };
        let rule = self.rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }
}

/// Makes the right answer, and then what the fault makes of it.
fn answer(shared: &Shared, request: &Request) -> Response {
    let fault = shared.state().take_fault(request);
    match &fault {
        Some(Fault::Status { status, headers, body }) => {
            return Response {
                status: *status,
                headers: headers.clone(),
                body: body.clone().into(),
                ..Response::default()
            };
        }
        Some(Fault::Redirect(base)) => {
            return Response::new(307).header("Location", format!("{base}{}", request.target));
        }
        Some(Fault::Hangup) => return Response { manner: Manner::Hangup, ..Response::default() },
        _ => {}
    }
    let mut changed = request.clone();
    match &fault {
        Some(Fault::IgnoreRange) => changed.headers.retain(|(name, _)| name != "range"),
        Some(Fault::WrongRange) => changed.headers.iter_mut().for_each(|(name, value)| {
            if name == "range" {
                "bytes=1-".clone_into(value);
            }
        }),
        _ => {}
    }
    let mut response = match refuse(shared, &changed) {
        Some(refusal) => refusal,
        None => route(shared, &changed),
    };
    match fault {
        Some(Fault::Cut(after)) => response.manner = Manner::Cut(after),
        Some(Fault::Stall(after)) => response.manner = Manner::Stall(after),
        Some(Fault::Slow(piece, pause)) => response.manner = Manner::Slow(piece, pause),
        Some(Fault::Chunked) => response.manner = Manner::Chunked,
        Some(Fault::Flip) => {
            let middle = response.body.len() / 2;
            if let Some(byte) = response.body.get_mut(middle) {
                *byte ^= 1;
            }
        }
        Some(Fault::Without(name)) => response.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name)),
        Some(Fault::With(name, value)) => {
            response.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
            response.headers.push((name.to_owned(), value));
        }
        _ => {}
    }
    response
}

/// Whether the request must log in first.
fn refuse(shared: &Shared, request: &Request) -> Option<Response> {
    if !request.path().starts_with("/v2/") {
        return None;
    }
    let sent = request.header("authorization");
    let challenge = match &shared.login {
        Login::Nobody => return None,
        Login::Basic { user, password } => {
            if sent == Some(&*basic(user, password)) {
                return None;
            }
            r#"Basic realm="fake""#.to_owned()
        }
        Login::Token { .. } => {
            let needed = needed_scopes(request);
            let state = shared.state();
            let granted = sent.and_then(|sent| state.tokens.get(sent.strip_prefix("Bearer ")?));
            if granted.is_some_and(|granted| needed.iter().all(|scope| granted.contains(scope))) {
                return None;
            }
            let error = if granted.is_some() { r#",error="insufficient_scope""# } else { "" };
            let address = request.header("host").unwrap_or_default();
            format!(r#"Bearer realm="http://{address}/token",service="fake",scope="{}"{error}"#, needed.join(" "))
        }
    };
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Some(Response::new(401).header("WWW-Authenticate", challenge).body(body))
}

/// One scope per action.
fn needed_scopes(request: &Request) -> Vec<String> {
    let Some((repository, _)) = split(request.path()) else { return Vec::new() };
    let action = if matches!(&*request.method, "GET" | "HEAD") { "pull" } else { "push" };
    let mut scopes = vec![format!("repository:{repository}:{action}")];
    scopes.extend(request.query("from").iter().map(|source| format!("repository:{source}:pull")));
    scopes
}

fn token(shared: &Shared, request: &Request) -> Response {
    let Login::Token { user, password } = &shared.login else { return Response::new(404) };
    let (known, scopes) = if request.method == "POST" {
        let is = |name: &str, value: &str| request.form(name).as_deref() == Some(value);
        let known = is("username", user) && is("password", password) || is("refresh_token", password);
        (Some(known), request.form("scope").unwrap_or_default())
    } else {
        let known = request.header("authorization").map(|sent| sent == basic(user, password));
        (known, request.query("scope").join(" "))
    };
    if known == Some(false) {
        return Response::new(401).body(r#"{"details":"incorrect username or password"}"#);
    }
    let mut granted = Vec::new();
    for scope in scopes.split(' ').filter(|scope| !scope.is_empty()) {
        let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        let actions = actions.split(',').filter(|action| known.is_some() || *action == "pull");
        granted.extend(actions.map(|action| format!("{resource}:{action}")));
    }
    let token = format!("token-{}", shared.next());
    shared.state().tokens.insert(token.clone(), granted);
    Response::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "Basic ".to_owned();
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]);
            text.push(if i <= group.len() { digit } else { '=' });
        }
    }
    text
}

/// Splits `/v2/<repository>/<manifests|blobs|tags>/<rest>`.
fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/v2/")?;
    let at = ["/manifests/", "/blobs/", "/tags/"].iter().find_map(|mark| path.rfind(mark))?;
    let at = path.find("/blobs/uploads/").unwrap_or(at);
    Some((&path[..at], &path[at + 1..]))
}

fn route(shared: &Shared, request: &Request) -> Response {
    if request.path() == "/token" {
        return token(shared, request);
    }
    if request.path() == "/v2/" {
        return Response::new(200).body("{}");
    }
    let Some((repository, rest)) = split(request.path()) else { return Response::new(404) };
    if let Some(name) = rest.strip_prefix("manifests/") {
        return manifest(shared, request, repository, name);
    }
    if let Some(session) = rest.strip_prefix("blobs/uploads/") {
        return upload(shared, request, repository, session);
    }
    if let Some(digest) = rest.strip_prefix("blobs/") {
        return blob(shared, request, repository, digest);
    }
    if rest == "tags/list" {
        let state = shared.state();
        let own = state.manifests.keys().filter(|(own, name)| own == repository && !name.contains(':'));
        let tags: Vec<_> = own.map(|(_, name)| format!("{name:?}")).collect();
        return Response::new(200).body(format!(r#"{{"name":"{repository}","tags":[{}]}}"#, tags.join(",")));
    }
    Response::new(404)
}

fn failure(status: u16, code: &str, message: &str) -> Response {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    Response::new(status).header("Content-Type", "application/json").body(body)
}

fn manifest(shared: &Shared, request: &Request, repository: &str, name: &str) -> Response {
    let mut state = shared.state();
    match &*request.method {
        "GET" | "HEAD" => match state.manifests.get(&(repository.to_owned(), name.to_owned())) {
            Some((media_type, bytes)) => Response::new(200)
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", Digest::of(bytes).to_string())
                .body(bytes.clone()),
            None => failure(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
        "PUT" => {
            let digest = Digest::of(&request.body);
            if name.contains(':') && name != digest.to_string() {
                return failure(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
            }
            if let Some(missing) = missing_parts(&state, repository, &request.body) {
                return failure(400, "MANIFEST_BLOB_UNKNOWN", &format!("unknown to the registry: {missing}"));
            }
            let media_type = request.header("content-type").unwrap_or_default().to_owned();
            state.put_manifest(repository, name, &media_type, &request.body);
            Response::new(201)
                .header("Location", format!("/v2/{repository}/manifests/{digest}"))
                .header("Docker-Content-Digest", digest.to_string())
        }
        _ => Response::new(405),
    }
}

/// Returns what a manifest or index refers to and the repository lacks.
fn missing_parts(state: &State, repository: &str, bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let digest = |value: &serde_json::Value| value["digest"].as_str().map(str::to_owned);
    let list = |name: &str| document[name].as_array().cloned().unwrap_or_default();
    let has_blob =
        |text: &String| text.parse().is_ok_and(|digest| state.linked.contains(&(repository.to_owned(), digest)));
    let blobs = list("layers").into_iter().chain([document["config"].clone()]);
    let missing_blob = blobs.filter_map(|value| digest(&value)).find(|text| !has_blob(text));
    let has_manifest = |text: &String| state.manifests.contains_key(&(repository.to_owned(), text.clone()));
    missing_blob.or_else(|| list("manifests").iter().filter_map(digest).find(|text| !has_manifest(text)))
}

fn blob(shared: &Shared, request: &Request, repository: &str, digest: &str) -> Response {
    let found = digest.parse().ok().and_then(|digest: Digest| {
        let state = shared.state();
        let has = state.linked.contains(&(repository.to_owned(), digest));
        state.blobs.get(&digest).filter(|_| has).cloned()
    });
    let Some(bytes) = found else { return failure(404, "BLOB_UNKNOWN", "blob unknown to registry") };
    let response =
        Response::new(200).header("Content-Type", "application/octet-stream").header("Docker-Content-Digest", digest);
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    match range.and_then(|start| start.parse::<usize>().ok()) {
        Some(start) if start < bytes.len() => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Response { status: 206, ..response }.header("Content-Range", range).body(&bytes[start..])
        }
        Some(_) => Response::new(416),
        None => response.body(bytes.to_vec()),
    }
}

fn upload(shared: &Shared, request: &Request, repository: &str, session: &str) -> Response {
    let mut state = shared.state();
    let location = |id: u32| format!("/v2/{repository}/blobs/uploads/{id}?_state=a%2Bb");
    if request.method == "POST" {
        if let Some(digest) = request.query("mount").first().and_then(|digest| digest.parse::<Digest>().ok()) {
            let source = request.query("from").first().cloned().unwrap_or_default();
            if state.linked.contains(&(source, digest)) {
                state.linked.insert((repository.to_owned(), digest));
                return Response::new(201).header("Location", format!("/v2/{repository}/blobs/{digest}"));
            }
        }
        let id = shared.next();
        state.uploads.insert(id, Vec::new());
        return Response::new(202).header("Location", location(id)).header("Range", "0-0");
    }
    let id = session.parse().unwrap_or(0);
    let Some(mut bytes) = state.uploads.remove(&id) else {
        return failure(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
    };
    match &*request.method {
        "PATCH" | "PUT" => bytes.extend(&request.body),
        "DELETE" => return Response::new(204),
        _ => {}
    }
    let range = format!("0-{}", bytes.len().saturating_sub(1));
    if request.method != "PUT" {
        state.uploads.insert(id, bytes);
        let status = if request.method == "GET" { 204 } else { 202 };
        return Response::new(status).header("Location", location(id)).header("Range", range);
    }
    if request.query("_state") != ["a+b"] {
        return failure(400, "BLOB_UPLOAD_INVALID", "the state parameter is lost");
    }
    let digest = Digest::of(&bytes);
    if request.query("digest") != [digest.to_string()] {
        return failure(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    state.blobs.insert(digest, Arc::new(bytes));
    state.linked.insert((repository.to_owned(), digest));
    Response::new(201)
        .header("Location", format!("/v2/{repository}/blobs/{digest}"))
        .header("Docker-Content-Digest", digest.to_string())
}
