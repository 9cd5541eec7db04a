//! The server side of the contract `image`.

use async_trait::async_trait;
use yakumo_contracts::image::{
    GetImageRequest, GetImagesReply, GetImagesRequest, Image, ImagesServer, IssueTicketRequest,
    Ticket,
};
use yakumo_rpc::{Incoming, Principal};
use yakumo_types::{Fault, ImageId};

use crate::app::Images;
use crate::app::model;

/// Ids in one question.
const MAX_IDS: usize = 1_000;

/// Answers on the topic `image`.
pub struct Server(pub Images);

#[async_trait]
impl ImagesServer for Server {
    async fn get_image(&self, call: &Incoming, request: GetImageRequest) -> Result<Image, Fault> {
        let id = parse(&request.image_id)?;
        Ok(message(self.0.show(&call.context, id).await?))
    }

    async fn get_images(
        &self,
        call: &Incoming,
        request: GetImagesRequest,
    ) -> Result<GetImagesReply, Fault> {
        if request.image_ids.len() > MAX_IDS {
            return Err(Fault::invalid(format!(
                "No more than {MAX_IDS} images can be asked for at once."
            )));
        }
        // What is no id names no image.
        let ids: Vec<ImageId> = request
            .image_ids
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect();
        let images = self.0.show_many(&call.context, &ids).await?;
        Ok(GetImagesReply {
            images: images.into_iter().map(message).collect(),
        })
    }

    async fn issue_ticket(
        &self,
        call: &Incoming,
        request: IssueTicketRequest,
    ) -> Result<Ticket, Fault> {
        if call.sender != Principal::Control {
            return Err(Fault::forbidden("A host cannot ask for tickets."));
        }
        if request.host.is_empty() {
            return Err(Fault::invalid("A ticket needs a host."));
        }
        let id = parse(&request.image_id)?;
        self.0.issue_ticket(&call.context, id, &request.host).await
    }
}

fn parse(id: &str) -> Result<ImageId, Fault> {
    id.parse()
        .map_err(|_| Fault::not_found(format!("No image found with ID {id:.64}.")))
}

fn message(image: model::Image) -> Image {
    let stored = image.stored;
    Image {
        id: image.id.to_string(),
        name: image.name.unwrap_or_default(),
        status: image.status.word().to_owned(),
        visibility: image.visibility.word().to_owned(),
        owner: image.owner.to_string(),
        protected: image.protected,
        disk_format: image.disk_format.unwrap_or_default(),
        container_format: image.container_format.unwrap_or_default(),
        size: stored.as_ref().map(|stored| stored.size),
        virtual_size: stored.as_ref().map(|stored| stored.virtual_size),
        min_disk: image.min_disk,
        min_ram: image.min_ram,
        sha512: stored
            .as_ref()
            .map(|stored| stored.sha512.clone())
            .unwrap_or_default(),
        checksum: stored.map(|stored| stored.md5).unwrap_or_default(),
        properties: image.properties.into_iter().collect(),
        tags: image.tags,
        created_at: image.created_at.as_micros(),
        updated_at: image.updated_at.as_micros(),
    }
}
