//! Callers that may not, and bodies that are none.

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};
use yakumo_integration::in_process::{Answer, Client};

/// Somebody who only looks at a project; for administrators to make.
pub async fn reader_of(admin: &Client, project: &str, name: &str) -> anyhow::Result<Client> {
    let identity = &admin.endpoints.identity;
    let id = |value: &Value| value["id"].as_str().map(ToOwned::to_owned).context("no id");
    let user = json!({ "user": { "name": name, "password": "a-long-password" } });
    let user = admin
        .post(&format!("{identity}/users"), user)
        .await?
        .expect(201)?;
    let roles = admin
        .get(&format!("{identity}/roles?name=reader"))
        .await?
        .expect(200)?;
    let projects = admin
        .get(&format!("{identity}/projects?name={project}"))
        .await?
        .expect(200)?;
    let grant = format!(
        "{identity}/projects/{}/users/{}/roles/{}",
        id(&projects["projects"][0])?,
        id(&user["user"])?,
        id(&roles["roles"][0])?,
    );
    admin
        .request(Method::PUT, &grant, None)
        .await?
        .expect(204)?;
    Client::log_in(admin.endpoints.clone(), name, "a-long-password", project).await
}

/// The same caller with another token.
pub fn with_token(client: &Client, token: &str) -> Client {
    let mut other = client.clone();
    other.token = token.to_owned();
    other
}

/// Tokens that do not hold: none, nonsense, and a real one of which one
/// character of the head, the claims and the signature is another.
pub fn bad_tokens(real: &str) -> Vec<String> {
    let mut all = vec![String::new(), "nonsense".to_owned()];
    let parts: Vec<&str> = real.split('.').collect();
    for changed in 0..parts.len() {
        let mut forged: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        let part = &mut forged[changed];
        let middle = part.len() / 2;
        let other = match part.as_bytes()[middle] {
            b'A' => "B",
            _ => "A",
        };
        part.replace_range(middle..=middle, other);
        all.push(forged.join("."));
    }
    all
}

/// A request whose body is whatever it is.
pub async fn send(client: &Client, method: Method, url: &str, body: Vec<u8>) -> Answer {
    let response = reqwest::Client::new()
        .request(method, url)
        .header("X-Auth-Token", &client.token)
        .header("Content-Type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    Answer {
        status,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}

/// Bodies that no API takes, with the status that they get.
pub fn bad_bodies(name: &str) -> Vec<(Vec<u8>, u16)> {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let wide = format!("{{\"{name}\":[{}1]}}", "1,".repeat(200_000));
    let large = format!("{{\"{name}\":\"{}\"}}", "x".repeat(2 << 20));
    let twice = format!("{{\"{name}\":{{}},\"{name}\":{{}}}}");
    vec![
        (Vec::new(), 400),
        (b"{".to_vec(), 400),
        (b"{\"a\":\"\xff\"}".to_vec(), 400),
        (deep.into_bytes(), 400),
        (wide.into_bytes(), 400),
        (twice.into_bytes(), 400),
        (large.into_bytes(), 413),
    ]
}

/// Ends a token and waits until the API at `url` has heard of it.
pub async fn revoke(client: &Client, url: &str) -> anyhow::Result<()> {
    let response = reqwest::Client::new()
        .delete(format!("{}/auth/tokens", client.endpoints.identity))
        .header("X-Auth-Token", &client.token)
        .header("X-Subject-Token", &client.token)
        .send()
        .await?;
    anyhow::ensure!(response.status() == 204, "{}", response.status());
    let env = yakumo_service::system_env();
    for _ in 0..1000 {
        if client.get(url).await?.status == 401 {
            return Ok(());
        }
        env.clock.sleep(std::time::Duration::from_millis(10)).await;
    }
    anyhow::bail!("the token still holds at {url}");
}
