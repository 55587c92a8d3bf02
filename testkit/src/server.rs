//! A web server in this process, on a free port of 127.0.0.1, gone when it is dropped.

use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::wire::{Connection, Request, Response, read_request};

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that has every request answered by `answer`, each connection in a
    /// thread of its own.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self::listen(None, answer)
    }

    /// Starts a server that speaks TLS; see [`Authority::server`](crate::tls::Authority::server).
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start_tls(tls: Arc<ServerConfig>, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self::listen(Some(tls), answer)
    }

    fn listen(tls: Option<Arc<ServerConfig>>, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let (ours, answer) = (Arc::clone(&stop), Arc::new(answer));
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ours.load(Ordering::Relaxed) {
                    return;
                }
                let (stop, answer, tls) = (Arc::clone(&ours), Arc::clone(&answer), tls.clone());
                std::thread::spawn(move || serve(stream, tls, &stop, &*answer));
            }
        });
        Self { address, stop, listener: Some(listener) }
    }

    /// Where it listens, `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener. If it cannot be reached, it is gone already.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, stop: &AtomicBool, answer: impl Fn(&Request) -> Response) {
    // A connection that nobody uses must not keep the process.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_nodelay(true);
    let connection: Box<dyn Connection> = match tls.map(ServerConnection::new) {
        None => Box::new(stream),
        Some(Ok(tls)) => Box::new(StreamOwned::new(tls, stream)),
        Some(Err(_)) => return,
    };
    let stop = || stop.load(Ordering::Relaxed);
    let mut input = BufReader::new(connection);
    while let Ok(Some(request)) = read_request(&mut input) {
        let response = answer(&request);
        if !response.send(&mut **input.get_mut(), &request.method, &stop).unwrap_or(false) || stop() {
            return;
        }
    }
}
