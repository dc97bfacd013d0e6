//! Where a cluster's log lines are, for people. PURE. The control plane never reads one.

use crate::model::ClusterRecord;
use crate::model::LogsView;
use towline_protocol::assignment::Sink;

/// Of a cluster; `folder` holds one folder for each cluster whose lines go to files.
pub fn view(cluster: &ClusterRecord, folder: &str) -> LogsView {
    let id = &cluster.id;
    let Some(sink) = &cluster.terms.log_sink else {
        return LogsView { kind: "file".to_owned(), directory: format!("{folder}/{id}"), place: None, look: None };
    };
    let (place, look) = match sink {
        Sink::AzureMonitor { rule, table, .. } => {
            // The table behind the stream `Custom-NAME_CL` is called `NAME_CL`.
            let table = table.strip_prefix("Custom-").unwrap_or(table);
            let look = format!("{table} | where Cluster == \"{id}\" | order by TimeGenerated asc");
            (format!("the table {table} of Azure Monitor, by the rule {rule}"), look)
        }
        Sink::Cloudwatch { region, group, .. } => {
            let look = format!("aws logs tail {group} --region {region} --since 1d --log-stream-name-prefix {id}/");
            (format!("the log group {group} of CloudWatch in {region}"), look)
        }
        Sink::File { directory } => (format!("files in {directory}"), format!("ls {directory}")),
        Sink::Otlp { endpoint } => {
            (format!("the store behind the OTLP endpoint {endpoint}"), format!("towline.cluster = {id}"))
        }
    };
    let kind = sink.kind().to_owned();
    LogsView { kind, directory: String::new(), place: Some(place), look: Some(look) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::records;

    #[test]
    fn a_remote_store_is_named_with_the_way_to_read_it() {
        let mut cluster = records::cluster("mine");
        assert_eq!(view(&cluster, "/logs").directory, format!("/logs/{}", cluster.id));
        let (region, group) = ("eu-central-1".to_owned(), "/towline/dask".to_owned());
        cluster.terms.log_sink = Some(Sink::Cloudwatch { region, group, endpoint: None });
        let told = view(&cluster, "/logs");
        assert_eq!((told.kind.as_str(), told.directory.as_str()), ("cloudwatch", ""));
        assert!(told.place.is_some_and(|place| place.contains("/towline/dask") && place.contains("eu-central-1")));
        assert!(told.look.is_some_and(|look| look.ends_with(&format!("--log-stream-name-prefix {}/", cluster.id))));
    }
}
