//! An image service that only streams, and can be made to stumble.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha512};
use tonic::{Request, Response, Status};
use yakumo_contracts::compute_host::ImageSource;
use yakumo_contracts::grpc::image::image_data_server::{ImageData, ImageDataServer};
use yakumo_contracts::grpc::image::{Chunk, FetchRequest};

pub const TICKET: &str = "a ticket";

#[derive(Default)]
struct Streams {
    bytes: Vec<u8>,
    fetches: AtomicU64,
    /// Where each of the next streams is cut off.
    cuts: Mutex<Vec<usize>>,
    offsets: Mutex<Vec<u64>>,
}

#[derive(Clone)]
struct Service(Arc<Streams>);

#[tonic::async_trait]
impl ImageData for Service {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        if request.ticket != TICKET {
            return Err(Status::unauthenticated("the ticket does not hold"));
        }
        let streams = &self.0;
        streams.fetches.fetch_add(1, Ordering::SeqCst);
        streams.offsets.lock().unwrap().push(request.offset);
        let offset = usize::try_from(request.offset).unwrap();
        let cut = {
            let mut cuts = streams.cuts.lock().unwrap();
            if cuts.is_empty() {
                None
            } else {
                Some(cuts.remove(0))
            }
        };
        let end = cut.map_or(streams.bytes.len(), |cut| cut.min(streams.bytes.len()));
        let mut parts: Vec<Result<Chunk, Status>> = streams.bytes[offset.min(end)..end]
            .chunks(256 * 1024)
            .map(|data| {
                Ok(Chunk {
                    data: data.to_vec(),
                })
            })
            .collect();
        if cut.is_some() {
            parts.push(Err(Status::unavailable("the service is going down")));
        }
        Ok(Response::new(stream::iter(parts).boxed()))
    }
}

pub struct FakeImages {
    streams: Arc<Streams>,
    endpoint: String,
    sha512: String,
}

impl FakeImages {
    /// Serves the guest image that `cargo xtask test` builds.
    pub async fn guest() -> Self {
        let path = std::env::var_os("YAKUMO_TEST_GUEST_IMAGE").map_or_else(
            || {
                let here = Path::new(env!("CARGO_MANIFEST_DIR"));
                here.join("../../target/guest/yakumo-guest.qcow2")
            },
            PathBuf::from,
        );
        let bytes = std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{} is needed: `cargo xtask test` builds it ({error})",
                path.display()
            )
        });
        Self::of(bytes).await
    }

    pub async fn of(bytes: Vec<u8>) -> Self {
        let sha512 = hex::encode(Sha512::digest(&bytes));
        let streams = Arc::new(Streams {
            bytes,
            ..Streams::default()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = ImageDataServer::new(Service(Arc::clone(&streams)));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
        });
        Self {
            streams,
            endpoint,
            sha512,
        }
    }

    pub fn source(&self) -> ImageSource {
        ImageSource {
            image_id: "0c7b5f0e-0000-4000-8000-000000000001".into(),
            endpoint: self.endpoint.clone(),
            ticket: TICKET.into(),
            size: u64::try_from(self.streams.bytes.len()).unwrap(),
            sha512: self.sha512.clone(),
            disk_format: "qcow2".into(),
        }
    }

    pub fn fetches(&self) -> u64 {
        self.streams.fetches.load(Ordering::SeqCst)
    }

    /// Cuts the next streams off at these bytes of the image.
    pub fn cut(&self, at: &[usize]) {
        *self.streams.cuts.lock().unwrap() = at.to_vec();
    }

    /// Where the streams began.
    pub fn offsets(&self) -> Vec<u64> {
        self.streams.offsets.lock().unwrap().clone()
    }
}
