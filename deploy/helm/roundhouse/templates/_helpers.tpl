{{/* What a release's objects are called; the longest ending has 18 characters, and a name 63. */}}
{{- define "roundhouse.name" -}}
{{- $name := ternary .Release.Name (printf "%s-roundhouse" .Release.Name) (contains "roundhouse" .Release.Name) -}}
{{- $name | trunc 42 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of an object. Takes root, component. */}}
{{- define "roundhouse.labels" -}}
{{ include "roundhouse.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* What picks the pods of one component. Takes root, component. */}}
{{- define "roundhouse.selector" -}}
{{ include "roundhouse.allComponents" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* What picks the pods of all components. */}}
{{- define "roundhouse.allComponents" -}}
app.kubernetes.io/name: roundhouse
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "roundhouse.image" -}}
{{ printf "%s:%s" .repository .tag | quote }}
{{- end }}

{{- define "roundhouse.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "roundhouse.name" .) }}
{{- end }}

{{/* As in compose.yaml: another user than root, no capability, nothing writable but volumes. */}}
{{- define "roundhouse.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.user }}
runAsGroup: {{ int64 .Values.user }}
fsGroup: {{ int64 .Values.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "roundhouse.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Memory is asked for as it is limited: what the limit admits is there. Takes cpu, memoryMiB. */}}
{{- define "roundhouse.resources" -}}
requests: {cpu: {{ .cpu | quote }}, memory: {{ int64 .memoryMiB }}Mi}
limits: {memory: {{ int64 .memoryMiB }}Mi}
{{- end }}

{{- define "roundhouse.logEnvironment" -}}
- {name: ROUNDHOUSE_LOG_FORMAT, value: {{ .Values.logFormat }}}
- {name: RUST_LOG, value: {{ .Values.logFilter | quote }}}
{{- end }}

{{/* Takes urlSecret, passwordFileSecret, folder: where the password file's copy lies. */}}
{{- define "roundhouse.databaseEnvironment" -}}
- name: DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .urlSecret.name }}, key: {{ .urlSecret.key }}}}
{{- if .passwordFileSecret.name }}
- {name: PGPASSFILE, value: /run/roundhouse/{{ .folder }}/pgpass}
{{- end }}
{{- end }}

{{/* Copies a password file: one that its group may read is refused, and a secret's volume gives it to the group of the volumes. Takes root,
     passwordFileSecret, folder. */}}
{{- define "roundhouse.passwordFile" -}}
- name: {{ .folder }}-password-file
  image: {{ include "roundhouse.image" .root.Values.image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [install, -m, "0400", /run/roundhouse/{{ .folder }}-secret/pgpass, /run/roundhouse/{{ .folder }}/pgpass]
  securityContext: {{- include "roundhouse.containerSecurity" .root | nindent 4 }}
  resources: {{- include "roundhouse.resources" (dict "cpu" "10m" "memoryMiB" 32) | nindent 4 }}
  volumeMounts:
    - {name: {{ .folder }}-secret, mountPath: /run/roundhouse/{{ .folder }}-secret, readOnly: true}
    - {name: {{ .folder }}, mountPath: /run/roundhouse/{{ .folder }}}
{{- end }}

{{- define "roundhouse.passwordFileVolumes" -}}
- name: {{ .folder }}-secret
  secret:
    secretName: {{ .passwordFileSecret.name }}
    defaultMode: 0440
    items: [{key: {{ .passwordFileSecret.key }}, path: pgpass}]
- name: {{ .folder }}
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}

{{- define "roundhouse.authorityVolume" -}}
- name: database-authority
  configMap:
    name: {{ .Values.database.authority.configMap }}
    items: [{key: {{ .Values.database.authority.key }}, path: ca.crt}]
{{- end }}

{{/* What the schema cannot say of values, in sentences. */}}
{{- define "roundhouse.check" -}}
{{- $values := .Values -}}
{{- if not $values.image.repository }}
{{- fail "image.repository is empty: build docker/cpu.Dockerfile, push it to a registry that the cluster reaches, and name it" }}
{{- end }}
{{- if not $values.database.urlSecret.name }}
{{- fail "database.urlSecret.name is empty: name the secret that holds the database's URL" }}
{{- end }}
{{- if not $values.objectStore.url }}
{{- fail "objectStore.url is empty: name a bucket, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER" }}
{{- end }}
{{- if and $values.migration.enabled (not $values.migration.urlSecret.name) }}
{{- fail "migration.urlSecret.name is empty: name the secret with the administrator's URL, or set migration.enabled=false" }}
{{- end }}
{{- if and $values.gpuProver.enabled (not $values.gpuProver.image.repository) }}
{{- fail "gpuProver.image.repository is empty: build docker/gpu.Dockerfile, push it to a registry that the cluster reaches, and name it" }}
{{- end }}
{{- $most := sub $values.cpuProver.memoryMiB 2048 }}
{{- if gt (int64 $values.cpuProver.maxAllocationMiB) $most }}
{{- fail (printf "cpuProver.maxAllocationMiB is more than %d: leave 2048 of memoryMiB to keys, or raise memoryMiB" $most) }}
{{- end }}
{{- range $name := list "cpuProver" "gpuProver" }}
{{- $prover := index $values $name }}
{{- if and $prover.enabled (eq 0 (add $prover.lightWvgCount $prover.heavyWvgCount)) }}
{{- fail (printf "%s.lightWvgCount and heavyWvgCount are both 0: nothing would ever be proven" $name) }}
{{- end }}
{{- end }}
{{- range $name, $scale := pick $values.scaling "witnessGenerator" "compressor" "cpuProver" "gpuProver" }}
{{- if gt (int64 $scale.minReplicas) (int64 $scale.maxReplicas) }}
{{- fail (printf "scaling.%s.minReplicas is more than maxReplicas" $name) }}
{{- end }}
{{- end }}
{{- end }}
