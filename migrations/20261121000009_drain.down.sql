ALTER TABLE workers DROP COLUMN drain_asked_at;
