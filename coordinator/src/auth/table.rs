//! What each method needs: the one place that says so.

use super::Scope;

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Open,
    /// A token of at least this scope; for [`Scope::Agent`] with TLS: a certificate of kind agent.
    Scope(Scope),
}

use Need::Open;
const READ: Need = Need::Scope(Scope::Read);
const SUBMIT: Need = Need::Scope(Scope::Submit);
const ADMIN: Need = Need::Scope(Scope::Admin);
const AGENT: Need = Need::Scope(Scope::Agent);

const TABLE: &[(&str, &[(&str, Need)])] = &[
    ("grpc.health.v1.Health", &[("Check", Open), ("List", Open), ("Watch", Open)]),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", READ)]),
    ("morph.v1.Agents", &[("Session", AGENT)]),
    ("morph.v1.Access", &[("CreateToken", ADMIN), ("ListTokens", ADMIN), ("RevokeToken", ADMIN)]),
    (
        "morph.v1.Coordinator",
        &[
            ("RegisterDataset", SUBMIT),
            ("ListDatasets", READ),
            ("Prepare", SUBMIT),
            ("SubmitRun", SUBMIT),
            ("SubmitSweep", SUBMIT),
            ("ListRuns", READ),
            ("GetRun", READ),
            ("ListSweeps", READ),
            ("GetSweep", READ),
            ("ListWorkers", READ),
            ("Cancel", SUBMIT),
            ("Pause", SUBMIT),
            ("Resume", SUBMIT),
            ("Retry", SUBMIT),
            ("Cordon", ADMIN),
            ("Uncordon", ADMIN),
            ("Watch", READ),
            ("Logs", READ),
            ("Metrics", READ),
            ("Events", READ),
            ("FollowEvents", READ),
            ("TestSets", READ),
            ("RecordEvaluation", SUBMIT),
        ],
    ),
];

/// Pages that are open to all, for probes and Prometheus. They tell numbers and nobody's names.
pub const PAGES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Methods that answer with a stream.
const STREAMS: &[(&str, &str)] = &[
    ("grpc.health.v1.Health", "Watch"),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"),
    ("morph.v1.Agents", "Session"),
    ("morph.v1.Coordinator", "Prepare"),
    ("morph.v1.Coordinator", "Watch"),
    ("morph.v1.Coordinator", "Logs"),
    ("morph.v1.Coordinator", "FollowEvents"),
];

fn entry(path: &str) -> Option<Need> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let methods = TABLE.iter().find(|(name, _)| *name == service)?.1;
    methods.iter().find(|(name, _)| *name == method).map(|(_, need)| *need)
}

/// The listed method at `path`: its service and its name.
pub fn known(path: &str) -> Option<(&'static str, &'static str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (service, methods) = TABLE.iter().find(|(name, _)| *name == service)?;
    methods.iter().find(|(name, _)| *name == method).map(|(name, _)| (*service, *name))
}

/// Whether `method` of `service` answers with a stream.
pub fn is_stream(service: &str, method: &str) -> bool {
    STREAMS.contains(&(service, method))
}

/// What the method at `path` (`/package.Service/Method`) needs. One that is not listed needs the most.
pub fn need(path: &str) -> Need {
    if PAGES.contains(&path) { Open } else { entry(path).unwrap_or(ADMIN) }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_is_listed_and_no_other() {
        let mut served = Vec::new();
        for bytes in [
            morph_proto::FILE_DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ] {
            for file in FileDescriptorSet::decode(bytes).unwrap().file {
                for service in &file.service {
                    let methods = service.method.iter();
                    let full = format!("{}.{}", file.package(), service.name());
                    for method in &service.method {
                        let listed = is_stream(&full, method.name());
                        assert_eq!(listed, method.server_streaming(), "STREAMS: {full}/{}", method.name());
                    }
                    served.extend(methods.map(|m| format!("/{full}/{}", m.name())));
                }
            }
        }
        for path in &served {
            assert!(entry(path).is_some(), "{path} is served, but table.rs does not say what it needs");
        }
        let listed = TABLE.iter().flat_map(|(s, methods)| methods.iter().map(move |(m, _)| format!("/{s}/{m}")));
        for path in listed {
            // tonic-health does not describe what newer versions of the protocol have.
            assert!(
                served.contains(&path) || path == "/grpc.health.v1.Health/List",
                "{path} is listed, but not served"
            );
        }
    }

    #[test]
    fn what_is_not_listed_needs_the_most() {
        for path in
            ["", "/", "/morph.v1.Coordinator/Frobnicate", "/morph.v1.Coordinator/Watch/", "morph.v1.Agents/Session"]
        {
            assert_eq!(need(path), ADMIN, "{path}");
        }
        assert_eq!(need("/morph.v1.Coordinator/Cancel"), SUBMIT);
        for page in PAGES {
            assert_eq!(need(page), Open);
            assert_eq!(need(&format!("{page}/")), ADMIN);
        }
    }
}
