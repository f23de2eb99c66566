//! `CatalogService`: translation only.

use freehold_proto::v1::{self, catalog_service_server::CatalogService};
use tonic::{Request, Response, Status};

use super::{
    convert::{instance_type, rounding},
    model::{NewPrice, NewType},
    service,
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    gate::Caller,
    leases::offers::{self, Search},
    page::{Page, parse_time},
};

/// Serves `CatalogService`.
pub struct CatalogRpc {
    app: App,
}

impl CatalogRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl CatalogService for CatalogRpc {
    async fn list_instance_types(
        &self,
        request: Request<v1::ListInstanceTypesRequest>,
    ) -> Result<Response<v1::ListInstanceTypesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let page = Page::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let (items, next_page_token) = service::list_types(&self.app, &caller, page).await?;
        Ok(Response::new(v1::ListInstanceTypesResponse {
            instance_types: items.into_iter().map(instance_type).collect(),
            next_page_token,
        }))
    }

    async fn get_instance_type(
        &self,
        request: Request<v1::GetInstanceTypeRequest>,
    ) -> Result<Response<v1::InstanceType>, Status> {
        let caller = Caller::of(&request)?;
        let item = service::get_type(&self.app, &caller, &request.get_ref().instance_type).await?;
        Ok(Response::new(instance_type(item)))
    }

    async fn create_instance_type(
        &self,
        request: Request<v1::CreateInstanceTypeRequest>,
    ) -> Result<Response<v1::InstanceType>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let (principal, request_id) = (caller.principal, &body.request_id);
        let idempotency = Idempotency::new(principal, "instance_type.create", request_id, &body)?;
        let new = NewType::try_from(body)?;
        let item = service::create_type(&self.app, &caller, &new, idempotency.as_ref()).await?;
        Ok(Response::new(instance_type(item)))
    }

    async fn set_price(
        &self,
        request: Request<v1::SetPriceRequest>,
    ) -> Result<Response<v1::Price>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let idempotency = Idempotency::new(caller.principal, "price.set", &body.request_id, &body)?;
        let new = NewPrice {
            micros: body.micros,
            from: parse_time("valid_from", body.valid_from.as_ref())?,
            rounding: rounding(body.rounding)?,
        };
        let of = &body.instance_type;
        let row = service::set_price(&self.app, &caller, of, new, idempotency.as_ref()).await?;
        Ok(Response::new(row.into()))
    }

    async fn list_prices(
        &self,
        request: Request<v1::ListPricesRequest>,
    ) -> Result<Response<v1::ListPricesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let (rows, next_page_token) =
            service::list_prices(&self.app, &caller, &body.instance_type, page).await?;
        Ok(Response::new(v1::ListPricesResponse {
            prices: rows.into_iter().map(Into::into).collect(),
            next_page_token,
        }))
    }

    async fn search_offers(
        &self,
        request: Request<v1::SearchOffersRequest>,
    ) -> Result<Response<v1::SearchOffersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let search = Search::try_from(request.into_inner())?;
        let offers = offers::search(&self.app, &caller, &search).await?;
        Ok(Response::new(v1::SearchOffersResponse {
            offers: offers.into_iter().map(Into::into).collect(),
            next_page_token: String::new(),
        }))
    }
}
