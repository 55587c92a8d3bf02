//! Traces for those who work on kiln: `KILN_LOG=debug` writes them to standard error.

use tracing_subscriber::EnvFilter;

/// The variable with the filter.
pub const VARIABLE: &str = "KILN_LOG";

/// Starts to write traces, if the variable asks for it. Without it nothing is set up.
pub fn start() {
    let Ok(filter) = std::env::var(VARIABLE) else { return };
    if !filter.is_empty() {
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr).init();
    }
}
