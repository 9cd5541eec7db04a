//! The unmodified command line client.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::config::{ADMIN_PASSWORD, Ports};
use crate::programs::{self, Output};

/// A command that takes longer hangs.
const BOUND: Duration = Duration::from_secs(240);

/// `openstack` with somebody's credentials in the environment, as `openrc` sets them.
#[derive(Clone)]
pub struct OpenStack {
    program: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl OpenStack {
    /// As the administrator.
    pub fn admin(ports: &Ports) -> Result<Self> {
        Self::of(ports, "admin", ADMIN_PASSWORD, "admin")
    }

    /// As anybody.
    pub fn of(ports: &Ports, user: &str, password: &str, project: &str) -> Result<Self> {
        Ok(Self {
            program: programs::openstack()?,
            variables: vec![
                (
                    "OS_AUTH_URL",
                    format!("http://127.0.0.1:{}/v3", ports.identity),
                ),
                ("OS_USERNAME", user.to_owned()),
                ("OS_PASSWORD", password.to_owned()),
                ("OS_PROJECT_NAME", project.to_owned()),
                ("OS_USER_DOMAIN_NAME", "Default".into()),
                ("OS_PROJECT_DOMAIN_NAME", "Default".into()),
                ("OS_REGION_NAME", "RegionOne".into()),
                ("OS_IDENTITY_API_VERSION", "3".into()),
            ],
        })
    }

    /// A token in place of the password.
    pub fn with_token(&self, token: &str) -> Self {
        let mut variables = self.variables.clone();
        variables.retain(|(name, _)| {
            !matches!(*name, "OS_USERNAME" | "OS_PASSWORD" | "OS_USER_DOMAIN_NAME")
        });
        variables.push(("OS_AUTH_TYPE", "token".into()));
        variables.push(("OS_TOKEN", token.to_owned()));
        Self {
            program: self.program.clone(),
            variables,
        }
    }

    /// Runs a command, words separated by blanks.
    pub async fn run(&self, command: &str) -> Result<Output> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let variables: Vec<(&str, &str)> = self
            .variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        programs::run_with(&self.program, &words, &variables, BOUND).await
    }

    /// Runs a command that must succeed.
    pub async fn ok(&self, command: &str) -> Result<String> {
        self.run(command).await?.ok()
    }

    /// Runs a command that must succeed, and reads what it shows.
    pub async fn json(&self, command: &str) -> Result<Value> {
        let text = self.ok(&format!("{command} -f json")).await?;
        serde_json::from_str(&text).with_context(|| format!("`{command}` shows no JSON: {text}"))
    }
}
