//! The steps before the login: hosts, whether the module is served, certificate.

use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;

use super::{Journal, NoSlot, Outcome, Refusal, Request, World, place};
use crate::logic::hosts::{self, List, PeerAddr, Rules, Tried, Verdict};
use crate::logic::rsyncd_conf::{Config, Located, Module, Position, Text, Variables, expanded};
use crate::logic::users::{Access, CertIdentity, CertRules, RuleMatch};

/// What is known of the other side, for messages and variables.
#[derive(Debug)]
pub(super) struct Peer {
    address: PeerAddr,
    pub(super) host: Vec<u8>,
    pub(super) variables: Variables,
    journal: Journal,
}

impl Peer {
    pub(super) fn connect(config: &Config, request: &Request<'_>, world: &World<'_>) -> Self {
        let host = if config.globals.reverse_lookup {
            hosts::client_name(request.peer, world.resolver)
        } else {
            hosts::UNDETERMINED.to_vec()
        };
        let peer = Self {
            address: request.peer,
            host,
            variables: config.variables.clone(),
            journal: world.journal.clone(),
        };
        if config.globals.reverse_lookup {
            peer.note_name("reverse lookup", None);
        }
        peer
    }

    pub(super) fn note(
        &self,
        outcome: Outcome,
        what: &'static str,
        position: Option<&Position>,
        text: impl FnOnce() -> String,
    ) {
        self.journal.note(outcome, what, position, text);
    }

    fn note_name(&self, what: &'static str, position: Option<&Position>) {
        self.note(Outcome::Seen, what, position, || {
            let name = escaped(&self.host);
            match &self.host[..] {
                hosts::UNKNOWN => {
                    format!("the address has no name that leads back to it: it is {name}")
                }
                hosts::UNDETERMINED => format!("no name is looked up: it is {name}"),
                _ => format!("the address has the name {name}, which leads back to it"),
            }
        });
    }

    /// The module's own wish for a look-up, and the variables known from here on.
    pub(super) fn enter(&mut self, module: &Module, world: &World<'_>) {
        if module.reverse_lookup.value && self.host == hosts::UNDETERMINED {
            self.host = hosts::client_name(self.address, world.resolver);
            self.note_name("reverse lookup", module.reverse_lookup.position.as_ref());
        } else if self.host == hosts::UNDETERMINED {
            self.note_name("reverse lookup", module.reverse_lookup.position.as_ref());
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
        let rules = Rules {
            allow: allow.as_deref(),
            deny: deny.as_deref(),
            forward_lookup: module.forward_lookup.value,
        };
        let mut allowed = false;
        let mut tried = |tried: Tried<'_>| {
            allowed |= tried.list == List::Allow && tried.hit.is_some();
            self.note_tried(module, tried);
        };
        let verdict =
            hosts::decide_aloud(rules, self.address, &self.host, world.resolver, &mut tried);
        self.note_hosts(module, &rules, allowed, &verdict);
        match verdict {
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

    fn note_tried(&self, module: &Module, tried: Tried<'_>) {
        let (what, list) = match tried.list {
            List::Allow => ("hosts allow", &module.hosts_allow),
            List::Deny => ("hosts deny", &module.hosts_deny),
        };
        self.note(Outcome::Seen, what, place(list.as_ref()), || {
            let pattern = escaped(tried.pattern);
            match tried.hit {
                None => format!("\"{pattern}\" is not it"),
                Some(how) => format!("\"{pattern}\" hits: {how}"),
            }
        });
    }

    fn note_hosts(&self, module: &Module, rules: &Rules<'_>, allowed: bool, verdict: &Verdict) {
        let allow = place(module.hosts_allow.as_ref());
        let deny = place(module.hosts_deny.as_ref());
        let outcome = match verdict {
            Verdict::Accept => Outcome::Passed,
            Verdict::Refuse { .. } => Outcome::Refused,
        };
        let (what, at, text) = match (rules.allow, rules.deny, outcome) {
            _ if allowed => ("hosts allow", allow, "on the list: let in"),
            (_, Some(_), Outcome::Refused) => ("hosts deny", deny, "on the list: not let in"),
            (_, None, Outcome::Refused) => (
                "hosts allow",
                allow,
                "not on the list, and there is no other: not let in",
            ),
            (Some(_), ..) => (
                "hosts deny",
                deny,
                "on neither list: let in; `hosts deny = *` would turn it away",
            ),
            (None, Some(_), _) => ("hosts deny", deny, "not on the list: let in"),
            (None, None, _) => (
                "hosts allow",
                allow,
                "neither list is set: every host is let in",
            ),
        };
        self.note(outcome, what, at, || text.to_owned());
    }

    pub(super) fn note_limit(&self, module: &Module) {
        let limit = &module.max_connections;
        self.note(
            Outcome::Passed,
            "max connections",
            limit.position.as_ref(),
            || match limit.value {
                0 => "any number at a time".to_owned(),
                most => format!("{most} at a time; how many there are now is not counted"),
            },
        );
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
                self.note(Outcome::Refused, name, place(list.as_ref()), || {
                    "written, but comes to nothing once its variables are replaced".to_owned()
                });
                return Err(self.unavailable(module, &format!("`{name}` comes to nothing")));
            }
        }
        Ok(())
    }

    pub(super) fn check_served(&self, module: &Module) -> Result<(), Refusal> {
        match module.refusals.first() {
            None => Ok(()),
            Some(reason) => {
                self.note(Outcome::Refused, "module", reason.position.as_ref(), || {
                    format!("not served: {}", reason.message)
                });
                Err(self.unavailable(module, &reason.to_string()))
            }
        }
    }

    pub(super) fn check_certificate(
        &self,
        module: &Module,
        identities: &[CertIdentity],
    ) -> Result<Option<Access>, Refusal> {
        let at = place(module.client_certs.as_ref());
        let Some(list) = expanded(module.client_certs.as_ref(), &self.variables) else {
            let text = || "not set: any certificate of the authorities".to_owned();
            self.note(Outcome::Passed, "client certs", at, text);
            return Ok(None);
        };
        let rules = match CertRules::parse(&list) {
            Ok(rules) => rules,
            Err(error) => return Err(self.unavailable(module, &error.to_string())),
        };
        let names: Vec<String> = identities.iter().map(ToString::to_string).collect();
        let reason = match rules.find(identities) {
            RuleMatch::Allowed { access, .. } => {
                let text = || format!("a rule allows {}{}", names.join(", "), shown(access));
                self.note(Outcome::Passed, "client certs", at, text);
                return Ok(access);
            }
            RuleMatch::Denied => "denied by rule",
            RuleMatch::NoRule => "no matching rule",
        };
        self.note(Outcome::Refused, "client certs", at, || match &names[..] {
            [] => format!("{reason}: the certificate has no names, or none was given"),
            names => format!("{reason} for {}", names.join(", ")),
        });
        let name = escaped(&module.name.value);
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

    pub(super) fn no_slot(&self, module: &Module, limit: i32, why: NoSlot) -> Refusal {
        let name = escaped(&module.name.value);
        let at = module.max_connections.position.as_ref();
        if let NoSlot::Unusable(why) = why {
            let text = "failed to open lock file".to_owned();
            let log = format!("{why}: module {name} from {}", self.shown());
            return Refusal::new(RejectCode::ModuleUnavailable, text, log);
        }
        let text = format!("max connections ({limit}) reached -- try again later");
        self.note(Outcome::Refused, "max connections", at, || text.clone());
        let log = format!("{text}: module {name} from {}", self.shown());
        Refusal::new(RejectCode::TooManyConnections, text, log)
    }
}

/// What a rule says about writing.
pub(super) fn shown(access: Option<Access>) -> &'static str {
    match access {
        None => "",
        Some(Access::ReadOnly) => ", read only",
        Some(Access::ReadWrite) => ", to read and write",
    }
}

fn comes_to_nothing(list: Option<&Located<Text>>, variables: &Variables) -> bool {
    list.is_some_and(|list| {
        !list.value.as_written().is_empty() && list.value.expand(variables).is_empty()
    })
}
