//! Between billing's own types and the protocol's.

use std::collections::BTreeMap;

use freehold_proto::{
    id::{InstanceId, LeaseId, LedgerTransactionId, OrganizationId, ProjectId, SegmentId, UsageId},
    v1,
};

use super::{service::Report, store::UsageRow};
use crate::{catalog::convert::stored_rounding, page::timestamp};

impl From<Report> for v1::GetReportResponse {
    fn from(report: Report) -> Self {
        let group_by = report.group_by.as_text();
        Self {
            rows: report
                .lines
                .into_iter()
                .map(|line| v1::ReportRow {
                    group_by: group_by.clone(),
                    group: line.group,
                    group_name: line.group_name,
                    usage_records: line.usage_records,
                    usable_gpu_seconds: line.usable_gpu_seconds,
                    billed_gpu_seconds: line.billed_gpu_seconds,
                    amount_micros: line.amount_micros,
                    currency: line.currency,
                })
                .collect(),
            next_page_token: report.next_page_token,
            totals: report
                .totals
                .into_iter()
                .map(|total| v1::Money {
                    micros: total.amount_micros,
                    currency: total.currency,
                })
                .collect(),
            from_time: Some(timestamp(report.from)),
            to_time: Some(timestamp(report.to)),
        }
    }
}

impl From<UsageRow> for v1::UsageRecord {
    fn from(row: UsageRow) -> Self {
        Self {
            id: UsageId::from(row.id).to_string(),
            organization_id: OrganizationId::from(row.organization_id).to_string(),
            project_id: ProjectId::from(row.project_id).to_string(),
            lease_id: LeaseId::from(row.lease_id).to_string(),
            instance_id: InstanceId::from(row.instance_id).to_string(),
            segment_id: SegmentId::from(row.segment_id).to_string(),
            instance_type: row.instance_type,
            meter: row.meter,
            period_start: Some(timestamp(row.period_start)),
            period_end: Some(timestamp(row.period_end)),
            revision: row.revision,
            reverses_id: row
                .reverses_id
                .map(|id| UsageId::from(id).to_string())
                .unwrap_or_default(),
            usable_seconds: row.usable_seconds,
            billed_seconds: row.billed_seconds,
            gpu_count: row.gpu_count,
            price_micros: row.price_micros,
            rounding: stored_rounding(&row.rounding).into(),
            cut_by_provider: row.cut_by_provider,
            amount_micros: row.amount_micros,
            currency: row.currency,
            labels: serde_json::from_value::<BTreeMap<String, String>>(row.labels)
                .unwrap_or_default(),
            post_time: Some(timestamp(row.posted_at)),
            ledger_transaction_id: LedgerTransactionId::from(row.ledger_transaction_id).to_string(),
        }
    }
}
