//! Shells in the place of failed commands.

use crate::engine::Engine;
use crate::error::BuildError;
use crate::op::exec::{self, KeptStep, Seat, ShellRequest};
use crate::source::image::environment;

impl Engine {
    /// Returns the failed commands that are kept, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn kept_steps(&self) -> Result<Vec<KeptStep>, BuildError> {
        exec::kept_steps(&self.store)
    }

    /// Opens a shell in the place of a failed command and returns its exit code: the same files, variables, user, working
    /// directory, network and mounts. What is changed there is thrown away.
    ///
    /// # Errors
    /// When no such command is kept, or the sandbox cannot be set up.
    pub fn shell(&self, request: &ShellRequest, seat: Seat<'_>) -> Result<i32, BuildError> {
        // No prune takes the layers meanwhile.
        let _lock = self.store.lock_shared().map_err(|error| environment(&error))?;
        let work = self.work(seat.steps.clone(), seat.cancel.clone());
        let ground = exec::Ground {
            store: &self.store,
            layers: work.layers,
            program: self.program()?,
            isolation: self.footing.isolation,
        };
        exec::shell(&ground, request, seat)
    }
}
