DROP TABLE worker_filters;
