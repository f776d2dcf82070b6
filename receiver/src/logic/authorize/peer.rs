//! The steps before the login: hosts, whether the module is served, certificate.

use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;

use super::{Refusal, Request, World};
use crate::logic::hosts::{self, PeerAddr, Verdict};
use crate::logic::rsyncd_conf::{Config, Located, Module, Text, Variables, expanded};
use crate::logic::users::{Access, CertIdentity, CertRules, RuleMatch};

/// What is known of the other side, for messages and variables.
#[derive(Debug)]
pub(super) struct Peer {
    address: PeerAddr,
    pub(super) host: Vec<u8>,
    pub(super) variables: Variables,
}

impl Peer {
    pub(super) fn connect(config: &Config, request: &Request<'_>, world: &World<'_>) -> Self {
        let host = if config.globals.reverse_lookup {
            hosts::client_name(request.peer, world.resolver)
        } else {
            hosts::UNDETERMINED.to_vec()
        };
        Self {
            address: request.peer,
            host,
            variables: config.variables.clone(),
        }
    }

    /// The module's own wish for a look-up, and the variables known from here on.
    pub(super) fn enter(&mut self, module: &Module, world: &World<'_>) {
        if module.reverse_lookup.value && self.host == hosts::UNDETERMINED {
            self.host = hosts::client_name(self.address, world.resolver);
        }
        let address = self.address.ip().to_string();
        self.variables = std::mem::take(&mut self.variables)
            .with(b"RSYNC_MODULE_NAME", &module.name.value)
            .with(b"RSYNC_HOST_NAME", &self.host)
            .with(b"RSYNC_HOST_ADDR", address.as_bytes());
    }

    /// Host and address, as rsync writes them.
    pub(super) fn shown(&self) -> String {
        self.shown_as(&self.host)
    }

    fn shown_as(&self, host: &[u8]) -> String {
        format!("{} ({})", escaped(host), self.address.ip())
    }

    pub(super) fn unknown_module(&self, module: &[u8]) -> Refusal {
        let module = escaped(module);
        let text = format!("Unknown module '{module}'");
        let log = format!("unknown module '{module}' tried from {}", self.shown());
        Refusal::new(RejectCode::UnknownModule, text, log)
    }

    /// A refusal, told as if the module did not exist if it is not listed.
    fn denied(&self, module: &Module, code: RejectCode, text: String, log: String) -> Refusal {
        if module.list.value {
            Refusal::new(code, text, log)
        } else {
            Refusal {
                log,
                ..self.unknown_module(&module.name.value)
            }
        }
    }

    pub(super) fn check_hosts(&self, module: &Module, world: &World<'_>) -> Result<(), Refusal> {
        self.check_lists(module)?;
        let allow = expanded(module.hosts_allow.as_ref(), &self.variables);
        let deny = expanded(module.hosts_deny.as_ref(), &self.variables);
        let rules = hosts::Rules {
            allow: allow.as_deref(),
            deny: deny.as_deref(),
            forward_lookup: module.forward_lookup.value,
        };
        match hosts::decide(rules, self.address, &self.host, world.resolver) {
            Verdict::Accept => Ok(()),
            Verdict::Refuse { shown } => {
                let name = escaped(&module.name.value);
                let from = self.shown_as(&shown);
                let text = format!("access denied to {name} from {from}");
                let log = format!("denied on module {name} from {from}");
                Err(self.denied(module, RejectCode::HostDenied, text, log))
            }
        }
    }

    /// A list that is written but comes to nothing, because a variable is empty, protects nothing.
    fn check_lists(&self, module: &Module) -> Result<(), Refusal> {
        let lists = [
            ("hosts allow", &module.hosts_allow),
            ("hosts deny", &module.hosts_deny),
            ("auth users", &module.auth_users),
            ("client certs", &module.client_certs),
        ];
        for (name, list) in lists {
            if comes_to_nothing(list.as_ref(), &self.variables) {
                return Err(self.unavailable(module, &format!("`{name}` comes to nothing")));
            }
        }
        Ok(())
    }

    pub(super) fn check_served(&self, module: &Module) -> Result<(), Refusal> {
        match module.refusals.first() {
            None => Ok(()),
            Some(reason) => Err(self.unavailable(module, &reason.to_string())),
        }
    }

    pub(super) fn check_certificate(
        &self,
        module: &Module,
        identities: &[CertIdentity],
    ) -> Result<Option<Access>, Refusal> {
        let Some(list) = expanded(module.client_certs.as_ref(), &self.variables) else {
            return Ok(None);
        };
        let rules = match CertRules::parse(&list) {
            Ok(rules) => rules,
            Err(error) => return Err(self.unavailable(module, &error.to_string())),
        };
        let reason = match rules.find(identities) {
            RuleMatch::Allowed { access, .. } => return Ok(access),
            RuleMatch::Denied => "denied by rule",
            RuleMatch::NoRule => "no matching rule",
        };
        let name = escaped(&module.name.value);
        let names: Vec<String> = identities.iter().map(ToString::to_string).collect();
        let text = format!("certificate not allowed on module {name}");
        let from = self.shown();
        let log = format!("{text} from {from} for {}: {reason}", names.join(", "));
        Err(self.denied(module, RejectCode::CertificateDenied, text, log))
    }

    fn unavailable(&self, module: &Module, why: &str) -> Refusal {
        let name = escaped(&module.name.value);
        let from = self.shown();
        let text = format!("module {name} is not available");
        let log = format!("module {name} is not served to {from}: {why}");
        self.denied(module, RejectCode::ModuleUnavailable, text, log)
    }

    pub(super) fn too_many(&self, module: &Module, limit: i32) -> Refusal {
        let name = escaped(&module.name.value);
        let text = format!("max connections ({limit}) reached -- try again later");
        let log = format!("{text}: module {name} from {}", self.shown());
        Refusal::new(RejectCode::TooManyConnections, text, log)
    }
}

fn comes_to_nothing(list: Option<&Located<Text>>, variables: &Variables) -> bool {
    list.is_some_and(|list| {
        !list.value.as_written().is_empty() && list.value.expand(variables).is_empty()
    })
}
