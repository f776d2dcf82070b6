//! rsync through TLS with certificates on both sides: `rsync-ssl` with openssl here, stunnel there, which runs
//! `rsync --server --daemon` for every connection, as rsync's own `stunnel-rsyncd.conf` does.

use std::fs;
use std::process::Command;

use syncd_tests::sandbox::{MODULE, USER};

use super::super::place::Place;
use super::installed;
use super::rsync::{Server, daemon_conf};
use super::service::Service;

/// stunnel in front of rsync.
pub(super) struct Stunnel(Service);

impl Stunnel {
    pub(super) fn start(place: &Place, port: u16) -> Result<Self, String> {
        let dir = place.sandbox.path();
        let (conf, certs) = (dir.join("stunnel.conf"), place.sandbox.certs());
        let rsync = installed("rsync").ok_or("rsync is not installed")?;
        let text = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = warning\n[rsync]\naccept = {}:{port}\ncert = {}\nkey = {}\n\
             CAfile = {}\nverifyChain = yes\nrequireCert = yes\nexec = {}\n\
             execArgs = rsync --server --daemon --config={} .\n",
            place.listens(),
            certs.join("server.pem").display(),
            certs.join("server.key").display(),
            certs.join("ca.pem").display(),
            rsync.display(),
            daemon_conf(place, false)?.display()
        );
        fs::write(&conf, text).map_err(|error| error.to_string())?;
        let words = vec!["stunnel4".to_owned(), conf.display().to_string()];
        Service::start(place, "stunnel", port, words).map(Self)
    }
}

impl Server for Stunnel {
    fn client(&self, place: &Place) -> (Command, String) {
        let certs = place.sandbox.certs();
        let mut command = Command::new("rsync-ssl");
        command
            .env("RSYNC_SSL_CA_CERT", certs.join("ca.pem"))
            .env("RSYNC_SSL_CERT", certs.join("agent.pem"))
            .env("RSYNC_SSL_KEY", certs.join("agent.key"))
            // The certificate is for a name, and there is only an address here.
            .env("RSYNC_SSL_SKIP_HOSTNAME_CHECK", "1")
            .arg("--type=openssl")
            .arg(format!("--port={}", self.0.port()))
            .arg(format!(
                "--password-file={}",
                place.sandbox.password_file().display()
            ));
        (command, format!("{USER}@{}::{MODULE}/", place.host()))
    }

    fn service(&mut self) -> &mut Service {
        &mut self.0
    }

    fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// stunnel hands everything on through one more connection over the loopback.
    fn times_on_wire(&self) -> f64 {
        2.0
    }
}
