//! The order in which jobs are picked: the one place that says it. The index `jobs_queued` has its columns.

/// `query_in_picking_order!(macro, "SQL before", "SQL after", …; arguments)`: a query of sqlx's with the order between the pieces. For
/// `query_as` it is `query_as<Row>`.
macro_rules! query_in_picking_order {
    ($query:ident $(<$row:ident>)?, $first:literal $(, $rest:literal)+; $($argument:expr),* $(,)?) => {
        sqlx::$query!(
            $($row,)?
            $first $(+ "ORDER BY priority DESC, deadline, start_tag, rank_in_batch, id" + $rest)+,
            $($argument),*
        )
    };
}
pub(crate) use query_in_picking_order;
