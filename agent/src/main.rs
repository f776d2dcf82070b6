//! `syncd-agent`: see the library and `syncd-agent --help`.

fn main() -> std::process::ExitCode {
    syncd_agent::commands::main(std::env::args_os())
}
