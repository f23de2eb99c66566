//! Between the gate's own types and the protocol's.

use freehold_proto::v1;

use super::Role;

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Owner => Self::Owner,
            Role::Admin => Self::Admin,
            Role::Developer => Self::Developer,
            Role::Billing => Self::Billing,
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Auditor => Self::Auditor,
        }
    }
}
