{{/* The Deployment of a component. Takes
     root, component (the ending of its name), run (the program's name for it), settings (its values), image,
     environment (its own variables, as YAML), keys (whether it reads them), scaled (whether KEDA sets its replicas),
     devices (how many; 0 for none), surge (whether a new pod may start before an old one ends). */}}
{{- define "roundhouse.deployment" -}}
{{- include "roundhouse.check" .root }}
{{- $values := .root.Values }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "roundhouse.name" .root }}-{{ .component }}
  labels: {{- include "roundhouse.labels" . | nindent 4 }}
spec:
  {{- if not .scaled }}
  replicas: {{ .settings.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    rollingUpdate: {{ ternary "{maxSurge: 1, maxUnavailable: 0}" "{maxSurge: 0, maxUnavailable: 1}" .surge }}
  selector:
    matchLabels: {{- include "roundhouse.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "roundhouse.selector" . | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "roundhouse.serviceAccount" .root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      # Running jobs may finish; the drain must end before the container is killed.
      terminationGracePeriodSeconds: {{ add $values.drainTimeoutSeconds 15 }}
      securityContext: {{- include "roundhouse.podSecurity" .root | nindent 8 }}
      {{- with $values.imagePullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- if and .devices .settings.runtimeClassName }}
      runtimeClassName: {{ .settings.runtimeClassName }}
      {{- end }}
      {{- with .settings.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .settings.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .settings.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "roundhouse.selector" . | nindent 14 }}
      {{- if or .keys $values.database.passwordFileSecret.name }}
      initContainers:
        {{- if $values.database.passwordFileSecret.name }}
        {{- include "roundhouse.passwordFile" (dict "root" .root "folder" "database") | nindent 8 }}
        {{- end }}
        {{- if .keys }}
        {{- include "roundhouse.keysContainer" . | nindent 8 }}
        {{- end }}
      {{- end }}
      containers:
        {{- include "roundhouse.component" . | nindent 8 }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 1Gi}
        {{- if $values.database.passwordFileSecret.name }}
        {{- include "roundhouse.passwordFileVolumes" (dict "passwordFileSecret" $values.database.passwordFileSecret "folder" "database") | nindent 8 }}
        {{- end }}
        {{- if $values.database.authority.configMap }}
        {{- include "roundhouse.authorityVolume" .root | nindent 8 }}
        {{- end }}
        {{- if $values.http.tokenSecret.name }}
        - name: http-token
          secret:
            secretName: {{ $values.http.tokenSecret.name }}
            defaultMode: 0440
            items: [{key: {{ $values.http.tokenSecret.key }}, path: token}]
        {{- end }}
        {{- if .keys }}
        - name: keys
          {{- if eq $values.keys.volume "claim" }}
          persistentVolumeClaim:
            claimName: {{ $values.keys.claim.existingName | default (printf "%s-keys" (include "roundhouse.name" .root)) }}
          {{- else }}
          emptyDir: {sizeLimit: 3Gi}
          {{- end }}
        {{- end }}
{{- end }}

{{- define "roundhouse.objectStoreEnvironment" -}}
- {name: ROUNDHOUSE_OBJECT_STORE, value: {{ .objectStore.url | quote }}}
{{- range $name, $value := .objectStore.environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Fetches the keys that the object store has, generates those that are missing, and checks the others. Pods that share a volume wait for each other by a lock in it. */}}
{{- define "roundhouse.keysContainer" -}}
- name: keys
  image: {{ include "roundhouse.image" .image }}
  imagePullPolicy: {{ .image.pullPolicy }}
  args: [keys, generate]
  env:
    - {name: ROUNDHOUSE_KEYS, value: /keys}
    {{- include "roundhouse.objectStoreEnvironment" .root.Values | nindent 4 }}
    {{- include "roundhouse.logEnvironment" .root | nindent 4 }}
  {{- with .root.Values.objectStore.credentialsSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  securityContext: {{- include "roundhouse.containerSecurity" .root | nindent 4 }}
  resources: {{- include "roundhouse.resources" .root.Values.keys | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: keys, mountPath: /keys}
{{- end }}

{{- define "roundhouse.component" -}}
{{- $values := .root.Values }}
- name: {{ .run }}
  image: {{ include "roundhouse.image" .image }}
  imagePullPolicy: {{ .image.pullPolicy }}
  args: [run, --component={{ .run }}]
  env:
    {{- include "roundhouse.databaseEnvironment" (dict "urlSecret" $values.database.urlSecret "passwordFileSecret" $values.database.passwordFileSecret "folder" "database") | nindent 4 }}
    {{- include "roundhouse.objectStoreEnvironment" $values | nindent 4 }}
    - {name: ROUNDHOUSE_DRAIN_TIMEOUT_SECONDS, value: {{ $values.drainTimeoutSeconds | quote }}}
    - {name: ROUNDHOUSE_LISTEN, value: "{{ $values.http.address }}:{{ $values.http.port }}"}
    {{- if $values.http.tokenSecret.name }}
    - {name: ROUNDHOUSE_HTTP_TOKEN_FILE, value: /run/roundhouse/http-token/token}
    {{- end }}
    {{- if .keys }}
    - {name: ROUNDHOUSE_KEYS, value: /keys}
    {{- end }}
    {{- include "roundhouse.logEnvironment" .root | nindent 4 }}
    {{- .environment | nindent 4 }}
  {{- with $values.objectStore.credentialsSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  ports:
    - {name: http, containerPort: {{ $values.http.port }}}
  # A process listens before it loads its keys; a GPU's tests its devices first.
  startupProbe:
    httpGet: {path: /health/live, port: http}
    periodSeconds: 5
    timeoutSeconds: 6
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /health/live, port: http}
    periodSeconds: 15
    timeoutSeconds: 6
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /health/ready, port: http}
    periodSeconds: 10
    timeoutSeconds: 6
    failureThreshold: 3
  securityContext: {{- include "roundhouse.containerSecurity" .root | nindent 4 }}
  resources:
    requests:
      cpu: {{ .settings.cpu | quote }}
      memory: {{ int64 .settings.memoryMiB }}Mi
      {{- if and .keys (eq $values.keys.volume "emptyDir") }}
      ephemeral-storage: 2Gi
      {{- end }}
      {{- if .devices }}
      {{ .settings.resourceName }}: {{ .devices }}
      {{- end }}
    limits:
      memory: {{ int64 .settings.memoryMiB }}Mi
      {{- if .devices }}
      {{ .settings.resourceName }}: {{ .devices }}
      {{- end }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- if $values.database.passwordFileSecret.name }}
    - {name: database, mountPath: /run/roundhouse/database, readOnly: true}
    {{- end }}
    {{- if $values.database.authority.configMap }}
    - {name: database-authority, mountPath: /run/roundhouse/database-authority, readOnly: true}
    {{- end }}
    {{- if $values.http.tokenSecret.name }}
    - {name: http-token, mountPath: /run/roundhouse/http-token, readOnly: true}
    {{- end }}
    {{- if .keys }}
    - {name: keys, mountPath: /keys, readOnly: true}
    {{- end }}
{{- end }}
