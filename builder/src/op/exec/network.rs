//! The network that commands of one build share: made when the first of them wants it, gone when the last has ended.

use std::sync::OnceLock;
use std::thread::JoinHandle;

use kiln_frontend::graph;
use kiln_runtime::{Network, PrivateNetwork};

use crate::error::chain;

/// A private network that is made when somebody wants it.
#[derive(Debug, Default)]
pub struct SharedNetwork(OnceLock<Result<PrivateNetwork, String>>);

/// What a command gets.
pub(super) struct Connection {
    /// For its sandbox.
    pub network: Network,
    /// The address under which it reaches the host; none where it does not.
    pub gateway: Option<String>,
    /// Why it is less than was asked for.
    pub note: Option<String>,
}

impl SharedNetwork {
    /// Returns the network for a command that asks for `wanted`.
    pub(super) fn connect(&self, wanted: graph::Network) -> Connection {
        const LOOPBACK: &str = "127.0.0.1";
        let plain =
            |network, gateway: Option<&str>| Connection { network, gateway: gateway.map(str::to_owned), note: None };
        match wanted {
            graph::Network::None => plain(Network::None, None),
            graph::Network::Host => plain(Network::Host, Some(LOOPBACK)),
            graph::Network::Default => {
                match self.0.get_or_init(|| PrivateNetwork::open().map_err(|error| chain(&error))) {
                    Ok(private) => Connection {
                        network: private.network(),
                        gateway: private.gateway().map(|address| address.to_string()),
                        note: None,
                    },
                    Err(reason) => Connection {
                        note: Some(format!(
                            "network: this RUN uses the host's network (`--network=none` gives it none), as there can be \
                         no private one: {reason}"
                        )),
                        ..plain(Network::Host, Some(LOOPBACK))
                    },
                }
            }
        }
    }

    /// Takes the network down beside whatever comes next. The result waits for the end of that when dropped.
    pub fn close(self) -> Closing {
        let network = self.0.into_inner().and_then(Result::ok);
        Closing(network.map(|network| std::thread::spawn(move || drop(network))))
    }
}

/// A network being taken down.
pub struct Closing(Option<JoinHandle<()>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}
