//! Image data for hosts, over gRPC: the service of `proto/grpc/image.proto`.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use yakumo_contracts::grpc::image::image_data_server::{ImageData, ImageDataServer};
use yakumo_contracts::grpc::image::{Chunk, FetchRequest};
use yakumo_service::Process;
use yakumo_types::{Fault, FaultCode};

use crate::app::{ByteRange, Images};
use crate::config::GrpcConfig;

/// Bytes on their way that one stream may have: enough for a fast network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Binds the address, so that the endpoint is known before anything serves.
pub async fn bind(config: &GrpcConfig) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The URL under which hosts reach the service.
pub fn endpoint(config: &GrpcConfig, bound: SocketAddr) -> String {
    if !config.endpoint.is_empty() {
        return config.endpoint.clone();
    }
    let scheme = if config.has_tls() { "https" } else { "http" };
    format!("{scheme}://{bound}")
}

/// Serves until the process ends.
pub async fn serve(
    process: &Process,
    listener: TcpListener,
    config: &GrpcConfig,
    images: Images,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A host that vanished must not keep its slot.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .tcp_nodelay(true);
    if config.has_tls() {
        server = server
            .tls_config(tls(config).await?)
            .context("the image service's TLS settings cannot be used")?;
    }
    let service = Service {
        images,
        fetches: Arc::new(Semaphore::new(config.max_fetches)),
    };
    let serving = server
        .add_service(ImageDataServer::new(service))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            process.shutdown.clone().cancelled_owned(),
        );
    let health = process.health.component("image data (gRPC)");
    process.spawn("image_grpc", async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the gRPC listener ended");
            health.down(format!("the listener ended: {error}"));
        }
    });
    Ok(())
}

async fn tls(config: &GrpcConfig) -> anyhow::Result<ServerTlsConfig> {
    // Two providers of cryptography are linked in, so one has to be named; it
    // is no error if that was done before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate = read(&config.tls_certificate).await?;
    let key = read(&config.tls_key).await?;
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    if !config.tls_client_ca.as_os_str().is_empty() {
        tls = tls.client_ca_root(Certificate::from_pem(read(&config.tls_client_ca).await?));
    }
    Ok(tls)
}

async fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))
}

struct Service {
    images: Images,
    fetches: Arc<Semaphore>,
}

#[async_trait::async_trait]
impl ImageData for Service {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let slot = Arc::clone(&self.fetches)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("Too many images are being fetched."))?;
        let id = request
            .image_id
            .parse()
            .map_err(|_| Status::not_found("No such image."))?;
        let (claim, data) = self
            .images
            .redeem_ticket(id, &request.ticket)
            .await
            .map_err(status)?;
        let whole = data.whole();
        if request.offset > whole.end {
            return Err(Status::out_of_range("The offset lies behind the end."));
        }
        tracing::info!(image = %id, host = claim.host, offset = request.offset, "a host fetches");
        let range = ByteRange {
            start: request.offset,
            ..whole
        };
        let chunks = data.stream(range).map(move |piece| {
            let _held: &OwnedSemaphorePermit = &slot;
            match piece {
                Ok(data) => Ok(Chunk { data: data.into() }),
                Err(_) => Err(Status::data_loss("The image's data cannot be read.")),
            }
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}

fn status(fault: Fault) -> Status {
    let message = fault.message;
    match fault.code {
        FaultCode::Unauthorized => Status::unauthenticated(message),
        FaultCode::Forbidden => Status::permission_denied(message),
        FaultCode::NotFound => Status::not_found(message),
        FaultCode::Unavailable => Status::unavailable(message),
        _ => Status::internal(message),
    }
}
