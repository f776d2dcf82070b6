//! `syncd-recv`: applies what `syncd-agent` sends, under the rules of an rsyncd.conf.

pub mod net;
pub mod relay;
