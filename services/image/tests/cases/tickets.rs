use serde_json::json;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use yakumo_contracts::grpc::image::FetchRequest;
use yakumo_contracts::grpc::image::image_data_client::ImageDataClient;
use yakumo_contracts::image::{
    GetImageRequest, GetImagesRequest, ImagesClient, IssueTicketRequest, Ticket,
};
use yakumo_rpc::Target;
use yakumo_types::{Fault, FaultCode};

use crate::world::{World, context};

fn client(world: &World) -> ImagesClient {
    ImagesClient::new(world.bus.clone(), Target::service("image"))
}

async fn ticket(world: &World, token: &str, id: &str) -> Result<Ticket, Fault> {
    let request = IssueTicketRequest {
        image_id: id.to_owned(),
        host: "node-1".to_owned(),
    };
    client(world).issue_ticket(&context(token), request).await
}

async fn fetch(world: &World, id: &str, ticket: &str, offset: u64) -> Result<Vec<u8>, Code> {
    let endpoint = world.started.grpc_endpoint.clone();
    let mut client = ImageDataClient::connect(endpoint).await.unwrap();
    let request = FetchRequest {
        image_id: id.to_owned(),
        ticket: ticket.to_owned(),
        offset,
    };
    let reply = client
        .fetch(request)
        .await
        .map_err(|status| status.code())?;
    let mut stream = reply.into_inner();
    let mut data = Vec::new();
    while let Some(chunk) = stream.message().await.map_err(|status| status.code())? {
        data.extend(chunk.data);
    }
    Ok(data)
}

#[tokio::test]
pub async fn a_host_fetches_what_its_ticket_says() {
    let world = World::new().await;
    let data: Vec<u8> = (0..2_500_000_u32).map(|n| (n % 241) as u8).collect();
    let id = world.active("member", &data).await;
    let ticket = ticket(&world, "reader", &id).await.unwrap();
    assert_eq!(ticket.size, data.len() as u64);
    assert_eq!(ticket.disk_format, "raw");
    assert_eq!(ticket.endpoint, world.started.grpc_endpoint);
    assert_eq!(ticket.sha512.len(), 128);
    assert_eq!(fetch(&world, &id, &ticket.ticket, 0).await.unwrap(), data);
    let rest = fetch(&world, &id, &ticket.ticket, 2_000_000).await.unwrap();
    assert_eq!(rest, data[2_000_000..]);
    assert!(
        fetch(&world, &id, &ticket.ticket, 2_500_000)
            .await
            .unwrap()
            .is_empty()
    );

    assert_eq!(
        fetch(&world, &id, &ticket.ticket, 2_500_001).await,
        Err(Code::OutOfRange)
    );
    assert_eq!(fetch(&world, &id, "", 0).await, Err(Code::Unauthenticated));
    let tampered = format!("{}x", ticket.ticket);
    assert_eq!(
        fetch(&world, &id, &tampered, 0).await,
        Err(Code::Unauthenticated)
    );
    let other = world.active("member", b"another").await;
    assert_eq!(
        fetch(&world, &other, &ticket.ticket, 0).await,
        Err(Code::PermissionDenied)
    );
    world.delete("member", &format!("/v2/images/{id}")).await;
    assert_eq!(
        fetch(&world, &id, &ticket.ticket, 0).await,
        Err(Code::NotFound)
    );
}

#[tokio::test]
pub async fn a_ticket_is_made_for_those_who_may_use_the_image() {
    let world = World::new().await;
    let id = world.active("member", b"data").await;
    let code = async |token: &str, id: &str| ticket(&world, token, id).await.map_err(|it| it.code);
    assert_eq!(code("other", &id).await.err(), Some(FaultCode::NotFound));
    assert!(code("admin", &id).await.is_ok());
    assert_eq!(code("member", "x").await.err(), Some(FaultCode::NotFound));
    let queued = world.create("member", "raw").await;
    assert_eq!(
        code("member", &queued).await.err(),
        Some(FaultCode::Conflict)
    );
    let action = format!("/v2/images/{id}/actions/deactivate");
    world.post("admin", &action, json!({})).await;
    assert_eq!(code("member", &id).await.err(), Some(FaultCode::Conflict));
}

#[tokio::test]
pub async fn images_are_read_over_the_bus_as_over_rest() {
    let world = World::new().await;
    let id = world.active("member", b"data").await;
    let foreign = world.create("other", "raw").await;
    let get = GetImageRequest {
        image_id: id.clone(),
    };
    let image = client(&world)
        .get_image(&context("member"), get.clone())
        .await
        .unwrap();
    assert_eq!((image.status.as_str(), image.size), ("active", Some(4)));
    let refused = client(&world).get_image(&context("other"), get).await;
    assert_eq!(refused.unwrap_err().code, FaultCode::NotFound);
    let many = GetImagesRequest {
        image_ids: vec![id.clone(), foreign, "x".into()],
    };
    let reply = client(&world)
        .get_images(&context("member"), many)
        .await
        .unwrap();
    let ids: Vec<&str> = reply.images.iter().map(|image| image.id.as_str()).collect();
    assert_eq!(ids, [id.as_str()]);
}

/// A certificate for this machine that signs itself, and its key, as PEM files.
fn certificate(folder: &std::path::Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let certificate = folder.join(format!("{name}.pem"));
    let key = folder.join(format!("{name}.key"));
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[tokio::test]
pub async fn hosts_fetch_over_tls_and_show_who_they_are() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let (server, server_key) = certificate(folder.path(), "server");
    let (host, host_key) = certificate(folder.path(), "host");
    let mut config = crate::world::config(&folder);
    config.grpc.tls_certificate.clone_from(&server);
    config.grpc.tls_key = server_key;
    config.grpc.tls_client_ca.clone_from(&host);
    let world = World::with(folder, config).await;
    assert!(
        world
            .started
            .grpc_endpoint
            .starts_with("https://127.0.0.1:")
    );
    let id = world.active("member", b"secret").await;
    let ticket = ticket(&world, "member", &id).await.unwrap();

    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&server)));
    let known = trusting
        .clone()
        .identity(Identity::from_pem(read(&host), read(&host_key)));
    let fetch = async |tls: ClientTlsConfig| -> Option<Vec<u8>> {
        let endpoint = Endpoint::from_shared(ticket.endpoint.clone()).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.ok()?;
        let request = FetchRequest {
            image_id: id.clone(),
            ticket: ticket.ticket.clone(),
            offset: 0,
        };
        let reply = ImageDataClient::new(channel).fetch(request).await.ok()?;
        Some(reply.into_inner().message().await.ok()??.data)
    };
    assert_eq!(fetch(known).await.unwrap(), b"secret");
    assert_eq!(fetch(trusting).await, None);
    assert_eq!(fetch(ClientTlsConfig::new()).await, None);
}
