FROM yakumo-stand-in:backends
COPY postgres-entrypoint /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/data PATH=/usr/local/bin:/usr/lib/postgresql/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
RUN ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint"]
CMD ["postgres"]
