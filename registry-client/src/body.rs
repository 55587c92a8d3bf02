//! What is uploaded: small blobs from memory, larger ones as a stream.
//!
//! A reader is a blocking thing and a request body is not. Between them stands a short channel:
//! a thread of its own reads and sends, the request receives. It also holds the two back to the
//! same speed.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use reqwest::Body;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Up to here a blob is read into memory first.
const SMALL: u64 = 8 << 20;
/// A larger one goes in pieces of this size.
const PIECE: usize = 256 << 10;
/// How many pieces may wait to be sent.
const WAITING: usize = 4;

/// How far an upload is, and whether its source failed.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    sent: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Progress {
    /// Returns how many bytes left the reader.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns why the reader failed, if it did.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: io::Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Returns how long an upload of `size` bytes may show no progress: what is in memory shows
/// none until it is gone, at 16 KiB a second on a very slow line.
pub(crate) fn patience(size: u64, stall: Duration) -> Duration {
    if size <= SMALL { stall + Duration::from_secs(size >> 14) } else { stall }
}

/// Makes a body of the first `size` bytes of `reader`, which must have as many.
pub(crate) fn body(mut reader: Box<dyn Read + Send>, size: u64, progress: &Progress) -> io::Result<Body> {
    if size <= SMALL {
        let mut bytes = Vec::new();
        reader.take(size + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(length_changed(size));
        }
        progress.sent.store(size, Ordering::Relaxed);
        return Ok(Body::from(bytes));
    }
    let (pieces, received) = channel(WAITING);
    let progress = progress.clone();
    std::thread::Builder::new().name("kiln-upload".to_owned()).spawn(move || {
        if let Err(error) = pump(&mut *reader, &pieces, size, &progress) {
            let kind = error.kind();
            progress.fail(error);
            // Only now: the request ends with it, and then asks for the failure.
            let _ = pieces.blocking_send(Err(kind.into()));
        }
    })?;
    Ok(Body::wrap_stream(Pieces(received)))
}

/// The pieces of a body, as they are read.
struct Pieces(Receiver<io::Result<Vec<u8>>>);

impl Stream for Pieces {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

fn pump(reader: &mut dyn Read, out: &Sender<io::Result<Vec<u8>>>, size: u64, progress: &Progress) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let mut buffer = vec![0; PIECE.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Err(length_changed(size)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        left -= n as u64;
        buffer.truncate(n);
        if out.blocking_send(Ok(buffer)).is_err() {
            // The request is over, and knows why.
            return Ok(());
        }
        progress.sent.fetch_add(n as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn length_changed(size: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it does not have the {size} bytes it should have"))
}
