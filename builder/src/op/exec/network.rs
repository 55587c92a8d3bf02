//! The network that commands of one build share: made when the first of them wants it, gone when the last has ended.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use kiln_frontend::graph;
use kiln_runtime::network::Helper;
use kiln_runtime::{Isolation, Network, NoNetwork, PrivateNetwork};

/// A private network that is made when somebody wants it.
#[derive(Debug, Default)]
pub struct SharedNetwork(OnceLock<Result<PrivateNetwork, NoNetwork>>);

/// What a command gets.
pub(super) struct Connection {
    /// For its sandbox.
    pub network: Network,
    /// The addresses under which it reaches the host; none where it does not.
    pub host: Vec<IpAddr>,
    /// Why it is less than was asked for.
    pub note: Option<String>,
}

impl SharedNetwork {
    /// Says whether [`Self::connect`] has nothing to make.
    pub(super) fn is_at_hand(&self, wanted: graph::Network) -> bool {
        wanted != graph::Network::Default || self.0.get().is_some()
    }

    /// Returns the network for a command that asks for `wanted`.
    pub(super) fn connect(&self, wanted: graph::Network, isolation: Isolation, helper: Helper<'_>) -> Connection {
        let loopback = || vec![IpAddr::from([127, 0, 0, 1])];
        match wanted {
            graph::Network::None => Connection { network: Network::None, host: Vec::new(), note: None },
            graph::Network::Default if isolation == Isolation::Chroot => {
                self.connect(graph::Network::Host, isolation, helper)
            }
            graph::Network::Host => Connection { network: Network::Host, host: loopback(), note: None },
            graph::Network::Default => match self.0.get_or_init(|| PrivateNetwork::open(helper)) {
                Ok(private) => Connection { network: private.network(), host: private.host_addresses(), note: None },
                Err(reasons) => Connection {
                    network: Network::Host,
                    host: loopback(),
                    note: Some(format!(
                        "network: this RUN uses the host's network (`--network=none` gives it none), as there can be no \
                         private one: {reasons}"
                    )),
                },
            },
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
