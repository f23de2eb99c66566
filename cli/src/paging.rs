//! Lists: one page when a page was asked for, all pages otherwise.

use freehold_proto::v1;

use crate::{args::PageArgs, error::CliError};

/// The page size that is asked for when all pages are fetched.
const PAGE_SIZE: i32 = 1000;

/// A list response: rows and the token of the next page.
pub(crate) trait Page {
    /// The token of the next page; empty on the last one.
    fn next_page_token(&self) -> &str;
    /// Takes the rows and the token of the page that follows.
    fn append(&mut self, next: Self);
}

macro_rules! pages {
    ($($response:ident . $rows:ident;)*) => {$(
        impl Page for v1::$response {
            fn next_page_token(&self) -> &str {
                &self.next_page_token
            }

            fn append(&mut self, next: Self) {
                self.$rows.extend(next.$rows);
                self.next_page_token = next.next_page_token;
            }
        }
    )*};
}

pages! {
    GetReportResponse.rows;
    ListApiKeysResponse.api_keys;
    ListAuditEntriesResponse.audit_entries;
    ListHostsResponse.hosts;
    ListInstanceTypesResponse.instance_types;
    ListLeasesResponse.leases;
    ListOrganizationsResponse.organizations;
    ListPricesResponse.prices;
    ListProjectsResponse.projects;
    ListUsageRecordsResponse.usage_records;
}

/// Fetches what `args` ask for. `fetch` is given a page size and a page token.
pub(crate) async fn fetch<P: Page>(
    args: &PageArgs,
    fetch: impl AsyncFn(i32, String) -> Result<P, CliError>,
) -> Result<P, CliError> {
    let token = args.page_token.clone().unwrap_or_default();
    if args.page_size.is_some() || args.page_token.is_some() {
        return fetch(args.page_size.unwrap_or(0), token).await;
    }
    let mut all = fetch(PAGE_SIZE, token).await?;
    while !all.next_page_token().is_empty() {
        let token = all.next_page_token().to_owned();
        let next = fetch(PAGE_SIZE, token.clone()).await?;
        if next.next_page_token() == token {
            return Err(CliError::Outcome(
                "the control plane answered the same page twice; the list was given up".to_owned(),
            ));
        }
        all.append(next);
    }
    Ok(all)
}
