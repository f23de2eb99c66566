//! Images: the engine's own are used as they are, others are pulled.

use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt as _;

use super::{Engine, EngineError, limit};

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The engine cannot be asked.
    #[error(transparent)]
    Engine(EngineError),
    /// It is not there and cannot be pulled.
    #[error("{0}")]
    Unavailable(String),
}

/// The id of an image that the engine has, after a pull if need be. `within`: how long the pull may take.
pub(crate) async fn ensure_image(
    engine: &Engine,
    image: &str,
    within: Duration,
) -> Result<String, ImageError> {
    match image_id(engine, image).await {
        Err(EngineError::NotFound(_)) => (),
        Err(error) => return Err(ImageError::Engine(error)),
        Ok(id) => return Ok(id),
    }
    tracing::info!(image, "pulling the image");
    match tokio::time::timeout(within, pull(engine, image)).await {
        Ok(Ok(())) => image_id(engine, image).await.map_err(ImageError::Engine),
        Ok(Err(EngineError::Unreachable(reason))) => {
            Err(ImageError::Engine(EngineError::Unreachable(reason)))
        }
        Ok(Err(error)) => Err(ImageError::Unavailable(format!(
            "the image `{image}` is not on the host and cannot be pulled: {error}; check its name, and that the host can \
             reach its registry"
        ))),
        Err(_) => Err(ImageError::Unavailable(format!(
            "the image `{image}` is not on the host and its pull took longer than {} s; have it pulled on the host first",
            within.as_secs()
        ))),
    }
}

async fn image_id(engine: &Engine, image: &str) -> Result<String, EngineError> {
    let client = engine.client().await?;
    let found = limit(client.inspect_image(image)).await?;
    found
        .id
        .ok_or_else(|| EngineError::Refused(format!("the image `{image}` has no id")))
}

async fn pull(engine: &Engine, image: &str) -> Result<(), EngineError> {
    let client = engine.client().await?;
    let options = CreateImageOptionsBuilder::default()
        .from_image(&with_tag(image))
        .build();
    let progress = client.create_image(Some(options), None, None);
    progress.try_for_each(async |_| Ok(())).await?;
    Ok(())
}

/// Without a tag the engine would pull every one there is.
pub(super) fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// The forms in which a policy may name an image.
pub(crate) fn forms(image: &str) -> [String; 2] {
    [image.to_owned(), with_tag(image)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_its_latest() {
        for (image, expected) in [
            ("base", "base:latest"),
            ("base:1", "base:1"),
            ("host:5000/base", "host:5000/base:latest"),
            ("host:5000/base:1", "host:5000/base:1"),
            ("base@sha256:00", "base@sha256:00"),
        ] {
            assert_eq!(with_tag(image), expected);
        }
    }
}
