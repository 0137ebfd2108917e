//! TODO-banner
