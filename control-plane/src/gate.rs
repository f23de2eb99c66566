//! The one gate: every call passes one authentication and one authorization point, in this layer.
//!
//! Invariant: a method that is not in [`rules`] is not served. The sweep test walks the descriptor set and fails when a method is missing
//! from the table.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::body::Body;
use freehold_proto::id::{CallId, OrganizationId, PrincipalId, ProjectId};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use sqlx::PgPool;
use tonic::Status;
use tower::{Layer, Service};

use crate::error::{Error, Result};

mod convert;
mod credentials;
mod role;
pub mod rules;

pub use credentials::{KEY_PREFIX, new_secret, secret_hash};
pub use role::Role;
use rules::Access;

/// The header that carries the call's id in every answer.
pub const CALL_ID_HEADER: &str = "freehold-call-id";

tokio::task_local! {
    static CALL_ID: String;
}

/// The id of the call that is being served, or the empty text outside of calls.
#[must_use]
pub fn call_id() -> String {
    CALL_ID.try_with(Clone::clone).unwrap_or_default()
}

/// Whoever acts, as the gate established it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The acting principal.
    pub principal: PrincipalId,
    /// The organization it belongs to.
    pub organization: OrganizationId,
    /// The only project it may act in; `None`: every project of the organization.
    pub project: Option<ProjectId>,
    /// What it may do.
    pub role: Role,
    /// When its credential expires.
    pub expires_at: chrono::DateTime<chrono::Utc>,
}

impl Caller {
    /// True for the operator and the auditor, who see every organization's things.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        matches!(self.role, Role::Operator | Role::Auditor)
    }

    /// The caller of a request that passed the gate.
    ///
    /// # Errors
    /// `Unauthenticated` when the request did not pass through the gate's layer, which only a mistake in the wiring can cause.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Error::Unauthenticated("the call carries no credentials".to_owned()))
    }
}

/// Puts the gate before a service.
#[derive(Clone)]
pub struct GateLayer {
    pool: PgPool,
}

impl GateLayer {
    /// A gate that looks credentials up in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            pool: self.pool.clone(),
            inner,
        }
    }
}

/// See [`GateLayer`].
#[derive(Clone)]
pub struct Gate<S> {
    pool: PgPool,
    inner: S,
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let waiting = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let pool = self.pool.clone();
        let call = CallId::new().to_string();
        Box::pin(CALL_ID.scope(call.clone(), async move {
            let admitted = admit(&pool, request.uri().path(), request.headers()).await;
            let mut response = match admitted {
                Ok(caller) => {
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                    inner.call(request).await?
                }
                Err(error) => Status::from(error)
                    .into_http::<tonic::body::Body>()
                    .map(Body::new),
            };
            if let Ok(value) = HeaderValue::from_str(&call) {
                response.headers_mut().insert(CALL_ID_HEADER, value);
            }
            Ok(response)
        }))
    }
}

/// Decides whether a call may go on; `None` for the few that need no caller.
async fn admit(pool: &PgPool, path: &str, headers: &HeaderMap) -> Result<Option<Caller>> {
    let access = rules::access_for(path);
    if matches!(access, Some(Access::Public | Access::EnrollmentToken)) {
        return Ok(None);
    }
    let caller = credentials::authenticate(pool, headers).await?;
    match access {
        Some(Access::Roles(roles)) if roles.contains(&caller.role) => Ok(Some(caller)),
        Some(_) => Err(Error::PermissionDenied(format!(
            "the role `{}` does not allow {path}; ask an owner of your organization, or the operator, for a key with another role",
            caller.role
        ))),
        None => Err(Error::PermissionDenied(format!(
            "{path} is not a method of this service"
        ))),
    }
}
