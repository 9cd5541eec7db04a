//! Turns `proto/*.proto` into messages, typed clients, server traits and
//! dispatchers for the bus, and `proto/grpc/*.proto` into gRPC services.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost_build::{Method, Service, ServiceGenerator};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=previous");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut modules = String::new();

    // Everything may use the common messages, and only those: a contract that
    // leaned on another one's messages would tie two services' versions together.
    let common = protox::compile(["proto/common.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    derive_serde(&mut config);
    config.compile_fds(common)?;
    module(
        &mut modules,
        "common",
        "Messages that every contract may use.",
    )?;

    let bus = protos(Path::new("proto"))?;
    let descriptors = protox::compile(&bus, ["proto"])?;
    std::fs::write(
        out.join("contracts.fds"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    let mut config = prost_build::Config::new();
    derive_serde(&mut config);
    config.extern_path(".yakumo.common.v1", "crate::common");
    let generator = BusGenerator::default();
    let exchanged = Rc::clone(&generator.exchanged);
    config.service_generator(Box::new(generator));
    config.compile_fds(descriptors)?;
    std::fs::write(out.join("exchanged.rs"), table(&exchanged.borrow())?)?;
    for path in &bus {
        let name = stem(path)?;
        if name != "common" {
            module(
                &mut modules,
                name,
                &format!("The contract `proto/{name}.proto`."),
            )?;
        }
    }

    let grpc = protos(Path::new("proto/grpc"))?;
    if !grpc.is_empty() {
        let descriptors = protox::compile(&grpc, ["proto/grpc"])?;
        std::fs::write(
            out.join("grpc.fds"),
            prost::Message::encode_to_vec(&descriptors),
        )?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
        writeln!(
            modules,
            "/// Streams that do not cross the broker.\npub mod grpc {{"
        )?;
        for path in &grpc {
            let name = stem(path)?;
            module(
                &mut modules,
                &format!("grpc.{name}"),
                &format!("The service `proto/grpc/{name}.proto`."),
            )?;
        }
        writeln!(modules, "}}")?;
    }
    std::fs::write(out.join("modules.rs"), modules)?;

    // What the last release spoke, for the tests that hold this one to it.
    for (folder, file) in [
        ("previous", "previous.fds"),
        ("previous/grpc", "previous_grpc.fds"),
    ] {
        let descriptors = protox::compile(protos(Path::new(folder))?, [folder])?;
        let bytes = prost::Message::encode_to_vec(&descriptors);
        std::fs::write(out.join(file), bytes)?;
    }
    Ok(())
}

/// A table of all messages that cross the bus as a whole, by name, for tests.
fn table(messages: &BTreeMap<String, String>) -> Result<String, std::fmt::Error> {
    let mut out = String::from(
        "/// By name.\npub fn exchanged() -> Vec<(&'static str, Kind)> {\n    vec![\n",
    );
    for (name, kind) in messages {
        writeln!(out, "        ({name:?}, Kind::of::<{kind}>()),")?;
    }
    out.push_str("    ]\n}\n");
    Ok(out)
}

fn protos(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn stem(path: &Path) -> Result<&str, Box<dyn Error>> {
    Ok(path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .ok_or("a contract's file name must be plain text")?)
}

fn module(out: &mut String, package: &str, doc: &str) -> Result<(), Box<dyn Error>> {
    let name = package.rsplit('.').next().unwrap_or(package);
    writeln!(
        out,
        "/// {doc}\npub mod {name} {{ include!(concat!(env!(\"OUT_DIR\"), \"/yakumo.{package}.v1.rs\")); }}"
    )?;
    Ok(())
}

/// Messages double as rows, files and REST documents, so they speak serde.
fn derive_serde(config: &mut prost_build::Config) {
    config.message_attribute(
        ".",
        "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]",
    );
    config.enum_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]");
}

enum Kind {
    Call,
    Cast,
    Fanout,
}

fn kind(method: &Method) -> Kind {
    match method.output_proto_type.as_str() {
        ".yakumo.common.v1.Cast" => Kind::Cast,
        ".yakumo.common.v1.Fanout" => Kind::Fanout,
        _ => Kind::Call,
    }
}

#[derive(Default)]
struct BusGenerator {
    /// Each message that is a request or a reply: its name on the wire, and its
    /// type as other crates name it.
    exchanged: Rc<RefCell<BTreeMap<String, String>>>,
}

impl BusGenerator {
    fn note_messages(&self, service: &Service) {
        let module = service.package.split('.').nth(1).unwrap_or_default();
        for method in &service.methods {
            for (name, kind) in [
                (&method.input_proto_type, &method.input_type),
                (&method.output_proto_type, &method.output_type),
            ] {
                let kind = match kind.strip_prefix("crate::") {
                    Some(path) => format!("yakumo_contracts::{path}"),
                    None => format!("yakumo_contracts::{module}::{kind}"),
                };
                let name = name.trim_start_matches('.').to_owned();
                self.exchanged.borrow_mut().insert(name, kind);
            }
        }
    }

    fn write(service: &Service, out: &mut String) -> Result<(), Box<dyn Error>> {
        let name = &service.name;
        let wire = format!(
            "{}.{}",
            service.package.trim_start_matches("yakumo."),
            service.proto_name
        );
        let (major, minor) = version(service)?;
        let doc = docs(&service.comments.leading, "");

        writeln!(
            out,
            "{doc}#[derive(Clone, Debug)]\npub struct {name}Client {{ bus: yakumo_rpc::Bus, target: yakumo_rpc::Target, deadline: std::time::Duration }}"
        )?;
        writeln!(out, "impl {name}Client {{")?;
        writeln!(
            out,
            "    /// The service's name on the wire.\n    pub const SERVICE: &'static str = {wire:?};"
        )?;
        writeln!(
            out,
            "    /// The contract's version.\n    pub const VERSION: yakumo_rpc::Version = yakumo_rpc::Version {{ major: {major}, minor: {minor} }};"
        )?;
        writeln!(
            out,
            "    /// Speaks to `target`; a call ends within 30 seconds.\n    pub fn new(bus: yakumo_rpc::Bus, target: yakumo_rpc::Target) -> Self {{ Self {{ bus, target, deadline: std::time::Duration::from_secs(30) }} }}"
        )?;
        writeln!(
            out,
            "    /// The same, with another bound on calls.\n    #[must_use]\n    pub fn with_deadline(mut self, deadline: std::time::Duration) -> Self {{ self.deadline = deadline; self }}"
        )?;
        writeln!(
            out,
            "    fn method(method: &'static str, since: u32) -> yakumo_rpc::MethodId {{ yakumo_rpc::MethodId {{ service: Self::SERVICE, method, version: yakumo_rpc::Version {{ minor: since, ..Self::VERSION }} }} }}"
        )?;
        for method in &service.methods {
            let (fun, proto, input, output) = (
                &method.name,
                &method.proto_name,
                &method.input_type,
                &method.output_type,
            );
            let doc = docs(&method.comments.leading, "    ");
            let since = since(method, (major, minor))?;
            match kind(method) {
                Kind::Call => writeln!(
                    out,
                    "{doc}    pub async fn {fun}(&self, ctx: &yakumo_types::RequestContext, request: {input}) -> Result<{output}, yakumo_types::Fault> {{\n        let reply = self.bus.call(ctx, &self.target, Self::method({proto:?}, {since}), prost::Message::encode_to_vec(&request), self.deadline).await?;\n        crate::decode_reply(&reply)\n    }}"
                )?,
                Kind::Cast => writeln!(
                    out,
                    "{doc}    pub async fn {fun}(&self, ctx: &yakumo_types::RequestContext, request: {input}) -> Result<(), yakumo_types::Fault> {{\n        Ok(self.bus.cast(ctx, &self.target, Self::method({proto:?}, {since}), prost::Message::encode_to_vec(&request)).await?)\n    }}\n    /// The same cast, unconfirmed and dropped after `ttl`: for heartbeats.\n    pub async fn {fun}_transient(&self, ctx: &yakumo_types::RequestContext, request: {input}, ttl: std::time::Duration) -> Result<(), yakumo_types::Fault> {{\n        Ok(self.bus.cast_transient(ctx, &self.target, Self::method({proto:?}, {since}), prost::Message::encode_to_vec(&request), ttl).await?)\n    }}"
                )?,
                Kind::Fanout => writeln!(
                    out,
                    "{doc}    pub async fn {fun}(&self, ctx: &yakumo_types::RequestContext, request: {input}) -> Result<(), yakumo_types::Fault> {{\n        Ok(self.bus.fanout(ctx, &self.target.topic, Self::method({proto:?}, {since}), prost::Message::encode_to_vec(&request)).await?)\n    }}"
                )?,
            }
        }
        writeln!(out, "}}")?;

        writeln!(
            out,
            "{}#[async_trait::async_trait]\npub trait {name}Server: Send + Sync + 'static {{",
            docs(&service.comments.leading, "")
        )?;
        for method in &service.methods {
            let (fun, input) = (&method.name, &method.input_type);
            let output = match kind(method) {
                Kind::Call => method.output_type.as_str(),
                Kind::Cast | Kind::Fanout => "()",
            };
            writeln!(
                out,
                "{}    async fn {fun}(&self, call: &yakumo_rpc::Incoming, request: {input}) -> Result<{output}, yakumo_types::Fault>;",
                docs(&method.comments.leading, "    ")
            )?;
        }
        writeln!(out, "}}")?;

        writeln!(
            out,
            "/// Hands incoming messages to a [`{name}Server`].\npub struct {name}Handler<S> {{ server: std::sync::Arc<S> }}"
        )?;
        writeln!(
            out,
            "impl<S: {name}Server> {name}Handler<S> {{\n    /// Serves by `server`.\n    pub fn new(server: std::sync::Arc<S>) -> Self {{ Self {{ server }} }}\n}}"
        )?;
        writeln!(
            out,
            "#[async_trait::async_trait]\nimpl<S: {name}Server> yakumo_rpc::Handler for {name}Handler<S> {{"
        )?;
        writeln!(
            out,
            "    fn service(&self) -> &'static str {{ {name}Client::SERVICE }}"
        )?;
        writeln!(
            out,
            "    fn version(&self) -> yakumo_rpc::Version {{ {name}Client::VERSION }}"
        )?;
        writeln!(
            out,
            "    fn open_to_hosts(&self, method: &str) -> bool {{ let _ = method; {} }}",
            open_to_hosts(service)
        )?;
        writeln!(
            out,
            "    async fn handle(&self, incoming: yakumo_rpc::Incoming) -> Result<Vec<u8>, yakumo_types::Fault> {{\n        match incoming.method.as_str() {{"
        )?;
        for method in &service.methods {
            let (fun, proto) = (&method.name, &method.proto_name);
            match kind(method) {
                Kind::Call => writeln!(
                    out,
                    "            {proto:?} => {{ let request = crate::decode_request(&incoming.payload)?; Ok(prost::Message::encode_to_vec(&self.server.{fun}(&incoming, request).await?)) }}"
                )?,
                Kind::Cast | Kind::Fanout => writeln!(
                    out,
                    "            {proto:?} => {{ let request = crate::decode_request(&incoming.payload)?; self.server.{fun}(&incoming, request).await?; Ok(Vec::new()) }}"
                )?,
            }
        }
        writeln!(
            out,
            "            other => Err(crate::unknown_method(Self::NAME, other)),\n        }}\n    }}\n}}"
        )?;
        writeln!(
            out,
            "impl<S> {name}Handler<S> {{ const NAME: &'static str = {wire:?}; }}"
        )?;
        Ok(())
    }
}

impl ServiceGenerator for BusGenerator {
    fn generate(&mut self, service: Service, out: &mut String) {
        self.note_messages(&service);
        if let Err(error) = Self::write(&service, out) {
            // The compiler then shows the reason where the contract is used.
            let _ = writeln!(
                out,
                "compile_error!({:?});",
                format!("{}: {error}", service.proto_name)
            );
        }
    }
}

fn docs(lines: &[String], indent: &str) -> String {
    lines
        .iter()
        .filter(|line| {
            let text = line.trim();
            !text.starts_with("version:") && !text.starts_with("since:") && text != CALLERS_HOSTS
        })
        .map(|line| format!("{indent}///{line}\n"))
        .collect()
}

/// The comment line that opens a method, or a whole service, to hosts.
const CALLERS_HOSTS: &str = "callers: hosts";

/// The expression that tells whether hosts may use `method`; by default none.
fn open_to_hosts(service: &Service) -> String {
    let open = |lines: &[String]| lines.iter().any(|line| line.trim() == CALLERS_HOSTS);
    if open(&service.comments.leading) {
        return "true".into();
    }
    let methods: Vec<String> = service
        .methods
        .iter()
        .filter(|method| open(&method.comments.leading))
        .map(|method| format!("{:?}", method.proto_name))
        .collect();
    match methods.as_slice() {
        [] => "false".into(),
        methods => format!("matches!(method, {})", methods.join(" | ")),
    }
}

/// The minor version that a receiver must have for this method, from a line
/// `since: MAJOR.MINOR` in its comment; those of the first version have none.
///
/// A caller asks for no more than that: in an upgrade it may be newer than who
/// receives it, who then passes over the fields that it does not know.
fn since(method: &Method, version: (u32, u32)) -> Result<u32, Box<dyn Error>> {
    let mut lines = method.comments.leading.iter();
    let Some(text) = lines.find_map(|line| line.trim().strip_prefix("since:")) else {
        return Ok(0);
    };
    let (major, minor) = text
        .trim()
        .split_once('.')
        .ok_or("a version is MAJOR.MINOR")?;
    let since: (u32, u32) = (major.parse()?, minor.parse()?);
    if since.0 != version.0 || since.1 > version.1 {
        return Err(format!("{} is since {text}, which is not there yet", method.name).into());
    }
    Ok(since.1)
}

/// Reads `version: MAJOR.MINOR` from the comment above the service.
fn version(service: &Service) -> Result<(u32, u32), Box<dyn Error>> {
    let line = service
        .comments
        .leading
        .iter()
        .find_map(|line| line.trim().strip_prefix("version:"))
        .ok_or("the comment above the service must hold a line `version: MAJOR.MINOR`")?;
    let (major, minor) = line
        .trim()
        .split_once('.')
        .ok_or("a version is MAJOR.MINOR")?;
    Ok((major.parse()?, minor.parse()?))
}
