//! Ctrl-C: the first asks the engine to stop, the second ends the program at once.

use kiln_runtime::Cancel;

/// The exit code of a program that Ctrl-C ended, by the custom of shells.
const INTERRUPTED: i32 = 130;

/// Returns a token that SIGINT and SIGTERM cancel.
pub fn cancel() -> Cancel {
    let cancel = Cancel::new();
    let token = cancel.clone();
    kiln_runtime::on_interrupt(move || {
        if token.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        token.cancel();
    });
    cancel
}
