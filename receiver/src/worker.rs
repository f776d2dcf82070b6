//! The process that touches one module's files.

use std::process::ExitCode;

use crate::net::relay_io;
use crate::relay::FromWorker;

/// Says that this build has no worker.
#[must_use]
pub fn run() -> ExitCode {
    let failed = FromWorker::Failed {
        text: "the module cannot be served: this build of the receiver has no worker".to_owned(),
        log: "this build has no worker".to_owned(),
    };
    match relay_io::send(std::io::stdin(), &failed, None) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
