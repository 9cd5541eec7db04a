//! `.yakumo/openrc` and `.yakumo/clouds.yaml`: how clients find their way in.

use anyhow::Result;

use super::config::ports;
use super::contents::DEMO;
use super::settings::{Folders, Settings, write_private};

/// Writes both, and the everyday user's `openrc-demo`; for their owner alone.
pub fn write(settings: &Settings, folders: &Folders) -> Result<()> {
    let url = format!("{}/v3", settings.url(ports::IDENTITY));
    let admin = folders.secret("admin")?;
    let demo = folders.secret("demo")?;
    write_private(&folders.top.join("openrc"), &openrc(&url, "admin", &admin))?;
    write_private(&folders.top.join("openrc-demo"), &openrc(&url, DEMO, &demo))?;
    let clouds = format!(
        "clouds:\n{}{}",
        cloud("yakumo-admin", &url, "admin", &admin),
        cloud("yakumo", &url, DEMO, &demo)
    );
    write_private(&folders.top.join("clouds.yaml"), &clouds)
}

fn openrc(url: &str, user: &str, password: &str) -> String {
    format!(
        "# `. .yakumo/openrc`: the administrator; `. .yakumo/openrc-demo`: the user demo.\n\
         unset OS_CLOUD OS_TOKEN OS_AUTH_TYPE OS_SYSTEM_SCOPE OS_DOMAIN_ID OS_DOMAIN_NAME OS_PROJECT_ID OS_USER_ID\n\
         export OS_AUTH_URL={url}\n\
         export OS_USERNAME={user}\n\
         export OS_PASSWORD={password}\n\
         export OS_PROJECT_NAME={user}\n\
         export OS_USER_DOMAIN_NAME=Default\n\
         export OS_PROJECT_DOMAIN_NAME=Default\n\
         export OS_REGION_NAME=RegionOne\n\
         export OS_IDENTITY_API_VERSION=3\n"
    )
}

fn cloud(name: &str, url: &str, user: &str, password: &str) -> String {
    format!(
        "  {name}:\n    auth:\n      auth_url: {url}\n      username: {user}\n      password: {password}\n      \
         project_name: {user}\n      user_domain_name: Default\n      project_domain_name: Default\n    \
         region_name: RegionOne\n    identity_api_version: 3\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_and_a_yaml_reader_find_the_same() {
        let text = openrc("http://127.0.0.1:5000/v3", "demo", "secret");
        assert!(text.contains("export OS_AUTH_URL=http://127.0.0.1:5000/v3\n"));
        assert!(text.contains("export OS_PASSWORD=secret\n"));
        let text = cloud("yakumo", "http://127.0.0.1:5000/v3", "demo", "secret");
        assert!(text.contains("\n    auth:\n      auth_url: http://127.0.0.1:5000/v3\n"));
        assert!(text.contains("\n    region_name: RegionOne\n"));
    }
}
