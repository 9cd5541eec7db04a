//! What is configured, and what may not be.

use crate::world::World;

/// Every place that holds a secret, each with one of its own.
const SECRETS: &str = r#"
    data_dir = "FOLDER"
    [bus]
    url = "amqp://yakumo:hush-bus@broker:5672/%2f"
    context_key = "hush-context-key"
    [database]
    url = "postgres://yakumo:hush-shared@db/yakumo_{service}"
    [identity]
    database.url = "mysql://yakumo:hush-identity@db/yakumo"
    bootstrap.admin_password = "hush-admin"
    [image]
    database.url = "postgres://db/yakumo?user=yakumo&password=hush-image"
    [api]
    metadata_secret = "hush-metadata"
    [network.manager]
    database.url = "postgres://yakumo:hush-network@db/yakumo"
    [volume]
    database.url = "no://url at all: hush-volume"
"#;

#[test]
fn no_secret_is_shown() {
    let world = World::with(SECRETS);
    let shown = world.run(&["config", "show"]);
    assert!(shown.status.success(), "{}", shown.err);
    for text in [&shown.out, &shown.err] {
        assert!(!text.contains("hush"), "{text}");
    }
    // What is no secret is there.
    for wanted in ["yakumo_api", "********", "admin_password", "context_key"] {
        assert!(shown.out.contains(wanted), "{wanted}: {}", shown.out);
    }
    // It is a configuration again, but for the secrets.
    let shown: toml::Value = toml::from_str(&shown.out).unwrap();
    assert_eq!(shown["drain_seconds"].as_integer(), Some(20));
}

#[test]
fn an_unknown_key_is_refused_by_name_and_place() {
    let world = World::with("data_dir = \"FOLDER\"\n[identity]\nlisten_on = \"x\"\n");
    let refused = world.run(&["config", "show"]);
    assert!(!refused.status.success());
    assert!(
        refused.err.contains("identity.listen_on"),
        "{}",
        refused.err
    );
    let file = world.file().display().to_string();
    assert!(refused.err.contains(&file), "{}", refused.err);

    let world = World::with("data_dir = \"FOLDER\"\n");
    let output = world
        .program()
        .args(["config", "show"])
        .env("YAKUMO__IMAGE__LISTEN_ON", "x")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(err.contains("image.listen_on"), "{err}");
    assert!(err.contains("environment"), "{err}");

    let refused = world.run(&["config", "show", "--set", "bus.adress=x"]);
    assert!(!refused.status.success());
    assert!(refused.err.contains("bus.adress"), "{}", refused.err);
    assert!(refused.err.contains("--set"), "{}", refused.err);
}

#[test]
fn the_flag_wins_over_the_environment_and_that_over_the_file() {
    let world = World::with("data_dir = \"FOLDER\"\ndrain_seconds = 1\n");
    let shown = |flags: &[&str], env: Option<&str>| {
        let mut program = world.program();
        program.args(["config", "show"]).args(flags);
        if let Some(value) = env {
            program.env("YAKUMO__DRAIN_SECONDS", value);
        }
        let output = program.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let shown: toml::Value = toml::from_str(&text).unwrap();
        shown["drain_seconds"].as_integer().unwrap()
    };
    assert_eq!(shown(&[], None), 1);
    assert_eq!(shown(&[], Some("2")), 2);
    assert_eq!(shown(&["--set", "drain_seconds=3"], Some("2")), 3);
}

#[test]
fn schemas_are_brought_up_to_date_and_again() {
    let world = World::small();
    for _ in 0..2 {
        let done = world.run(&["db", "migrate"]);
        assert!(done.status.success(), "{}", done.err);
        assert!(done.out.contains("up to date"), "{}", done.out);
    }
    for service in [
        "identity",
        "image",
        "object_store",
        "api",
        "network",
        "volume",
    ] {
        assert!(world.path().join(format!("{service}.sqlite")).exists());
    }
}

#[test]
fn the_commands_for_a_brokers_user_can_be_given_to_a_shell() {
    let world = World::with("data_dir = \"FOLDER\"\n");
    let said = world.run(&["broker-user", "node-1"]);
    assert!(said.status.success(), "{}", said.err);
    // A shell that only says which words it was given.
    let script = format!(
        "rabbitmqctl() {{ printf '<%s>' \"$@\"; echo; }}\n{}",
        said.out
    );
    #[allow(clippy::disallowed_methods)]
    let shell = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    let words = String::from_utf8(shell.stdout.clone()).unwrap();
    assert!(
        shell.status.success() && shell.stderr.is_empty(),
        "{shell:?}"
    );
    assert!(words.starts_with("<add_user><host.node-1>\n"), "{words}");
    assert!(
        words.contains("<^(host[.]node-1|host-reply[.]node-1[.][0-9a-f]{32})$>"),
        "{words}"
    );
    assert!(words.contains("<^$>"), "{words}");
}
