//! What a push or a pull needs from a client: progress and a way to stop, and neither contexts nor secrets.

use std::collections::BTreeMap;

use kiln_builder::{BuildError, Client, Steps};

use crate::input::context::{LocalContexts, Main};
use crate::input::results::LocalResults;
use crate::input::secret::Lent;
use crate::interrupt;
use crate::progress::{Display, Mode};

/// A display for one transfer.
pub struct Transfer(Display);

impl Transfer {
    /// Starts the display.
    pub fn start(mode: Mode) -> Self {
        Self(Display::start(mode))
    }

    /// Does the transfer, and ends the display before anything else is printed.
    ///
    /// # Errors
    /// Whatever `work` says.
    pub fn with<T>(self, work: impl FnOnce(&Client<'_>) -> Result<T, BuildError>) -> Result<T, BuildError> {
        let contexts = LocalContexts::new(Main::Empty, None, BTreeMap::new())?;
        work(&Client {
            contexts: &contexts,
            secrets: &Lent::default(),
            results: &LocalResults::default(),
            steps: Steps::new(self.0.sink()),
            cancel: interrupt::cancel(),
        })
    }
}
