//! The program `syncd-recv`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    syncd_recv::cli::main()
}
